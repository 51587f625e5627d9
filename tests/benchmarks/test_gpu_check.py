"""The check on a GPU, at a small size on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import _runner
from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check._equality import (
    largest_difference,
    order_is_kept,
    share_of_equal_order,
)
from benchmarks.gpu_check._step import Check, CheckFailedError
from benchmarks.gpu_check._steps import STEPS

# Steps that depend on the random model.
MODEL_STEPS = ("equality", "memory", "scoring", "float16")


def results(folder: Path, step: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "steps" / f"{step}.json").read_text())
    return found


def run(folder: Path, *options: str, shape: str = "tiny") -> int:
    return main(["--device", "cpu", "--shape", shape, "--output", str(folder), *options])


@pytest.fixture
def steps_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run steps in this process: ten processes would import the same packages ten times."""
    monkeypatch.setattr(_runner, "_wait", lambda check, name, *_: _runner.run_step(check, name))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("steps_in_this_process")
def test_all_steps_pass_on_the_cpu_or_say_why_they_are_skipped(tmp_path: Path) -> None:
    assert run(tmp_path, "--minutes", "18") == 0
    found = {name: results(tmp_path, name) for name in STEPS}
    skipped = {name: one["reason"] for name, one in found.items() if one["status"] == "skipped"}
    assert skipped.pop("scoring-vllm") == "python -m benchmarks scoring measures vLLM on a CPU"
    for reason in skipped.values():
        assert "is not installed. Run: pip install 'mllm-msr[quantize]'" in reason
    assert skipped.keys() <= {"4bit"}
    for step in ("run-demo", "run"):
        resumed = found[step]["results"]
        assert resumed["steps"] == 6
        assert resumed["killed_after_state"].startswith("state-")
        assert resumed["largest_difference"] == {"loss": 0.0, "score": 0.0}
    assert found["run-demo"]["results"]["metrics"].keys() == {"zero_shot", "mllm_msr", "popularity"}
    assert found["equality-demo"]["results"]["share_of_equal_order"]["cpu bfloat16"] > 0.95
    row = json.loads((tmp_path / "results" / "scoring-tiny.json").read_text())
    assert row["ratios"].keys() == {"released", "strong"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_steps_of_the_model_pass_with_qwen3_vl(tmp_path: Path) -> None:
    steps = ",".join(MODEL_STEPS)
    assert run(tmp_path, "--minutes", "18", "--steps", steps, shape="qwen3-vl-tiny") == 0
    memory = results(tmp_path, "memory")["results"]
    assert memory["estimated_gb"].keys() == memory["measured_gb"].keys()
    assert all(estimate > 0 for estimate in memory["estimated_gb"].values())
    trial = results(tmp_path, "float16")["results"]["trial"]
    assert trial["model: training"].startswith("ok: loss")


def test_a_failed_step_is_named_and_others_are_run_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--steps", "float16,device") == 1
    shown = capsys.readouterr().out
    assert "Not passed: float16." in shown
    assert results(tmp_path, "float16")["reason"] == (
        "The step equality has no results. Run it first."
    )
    passed = results(tmp_path, "device")
    assert passed["status"] == "passed"
    assert passed["results"]["matmul_tflops_float32"] > 0
    before = (tmp_path / "steps" / "device.json").stat().st_mtime_ns
    assert run(tmp_path, "--steps", "device") == 0
    assert (tmp_path / "steps" / "device.json").stat().st_mtime_ns == before
    assert "before" in capsys.readouterr().out


def test_a_step_that_is_cut_off_keeps_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Check("cpu", "tiny", tmp_path)
    assert _runner.run_steps(check, ["device"], seconds=1, show=print) == ["device"]
    assert not (tmp_path / "steps").exists()  # not started
    monkeypatch.setattr(_runner, "_SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(_runner, "_wait", lambda check, name, *_: check.record(name).add(rate=3.0))
    assert _runner.run_steps(check, ["scoring"], seconds=1, show=print) == ["scoring"]
    found = results(tmp_path, "scoring")
    assert (found["status"], found["reason"]) == ("failed", "no time is left")
    assert found["results"] == {"rate": 3.0}
    monkeypatch.setattr(_runner, "_wait", lambda *_: -9)
    assert _runner.run_steps(check, ["run"], seconds=1, show=print) == ["run"]
    assert results(tmp_path, "run")["reason"].startswith("ended with code -9")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary.keys() == {"run"}


def test_results_of_another_device_do_not_count(tmp_path: Path) -> None:
    done = Check("cuda", "tiny", tmp_path).record("device")
    done.write("passed")
    assert _runner.run_steps(Check("cpu", "tiny", tmp_path), ["device"], seconds=1, show=print)


def test_unknown_steps_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, "--steps", "device,speed")
    assert "unknown steps speed; choose from device, equality-demo" in capsys.readouterr().err


def test_rankings_are_compared_list_by_list() -> None:
    first = [(-0.1, -2.0), (-0.5, -1.0), (-3.0, -0.1), (-1.0, -0.5)]
    swapped = [(-0.5, -1.0), (-0.1, -2.0), (-3.0, -0.1), (-1.0, -0.5)]
    assert share_of_equal_order(first, first, size=2) == 1.0
    assert share_of_equal_order(first, swapped, size=2) == 0.5
    assert largest_difference(first, swapped) == pytest.approx(1.0)
    assert order_is_kept(first, swapped, size=2, tolerance=2.0)
    assert not order_is_kept(first, swapped, size=2, tolerance=1.0)


def test_steps_need_the_results_of_others(tmp_path: Path) -> None:
    check = Check("cpu", "tiny", tmp_path)
    with pytest.raises(CheckFailedError, match="The step equality has no results"):
        check.results_of("equality")
