"""The command line: exit codes, one-sentence errors, JSON on stdout, help that is quick."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import worlds


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mllm_msr", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run folder and its data."""
    folder = tmp_path_factory.mktemp("cli")
    data = worlds.write_files(folder / "data")
    done = call("run", *worlds.settings(data), "--run", "run", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["metrics"]) == {"zero_shot", "popularity"}
    assert done.stderr == ""
    return folder / "run", data


def test_a_run_prints_its_table_and_the_path_of_its_report(finished: tuple[Path, Path]) -> None:
    run, data = finished
    done = call("run", *worlds.settings(data), "--run", str(run), cwd=run.parent)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["model", "negatives", "users", "auc", "hr@5", "mrr@5", "ndcg@5"]
    assert lines[-1] == f"report: {run / 'report.html'}"


def test_a_stage_takes_its_settings_from_the_run_folder(finished: tuple[Path, Path]) -> None:
    run, _ = finished
    done = call("evaluate", "--run", str(run), "--json", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(run)


def test_external_tables_are_judged(finished: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = finished
    done = call(
        "evaluate",
        "--candidates", str(run / "candidates.parquet"),
        "--scores", str(run / "scores/popularity.parquet"),
        "--out", "metrics.json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "uniform" in json.loads((tmp_path / "metrics.json").read_text())["popularity"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "train.rank=0"], 2, "train.rank=0"),
        (["run", "--preset", "defualt"], 2, "did you mean 'default'"),
        (["list", "models"], 2, "received 'models'"),
        (["evaluate", "--candidates", "x.parquet"], 2, "both --candidates and --scores"),
        (["evaluate", "--candidates", "x.parquet", "--scores", "y.parquet"], 1, "x.parquet"),
        (["prepare", "dataset=files", "data.path=nowhere"], 1, "nowhere"),
        (["summarize", "--run", "empty"], 1, "prepare"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_errors_are_one_sentence_with_an_exit_code(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_what_several_processes_cannot_do_together_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    done = call("experiment", "figure4", cwd=tmp_path)
    assert done.returncode == 2
    assert "train, run under torchrun" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["datasets", "backends", "baselines", "presets"])
def test_names_are_listed(tmp_path: Path, kind: str) -> None:
    done = call("list", kind, "--json", cwd=tmp_path)
    assert len(json.loads(done.stdout)[kind]) >= 1


def test_help_shows_the_settings_and_loads_no_model_library(tmp_path: Path) -> None:
    done = call("infer", "--help", cwd=tmp_path)
    assert "infer.block_size=3" in done.stdout
    code = (
        "import sys\n"
        "from mllm_msr.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'polars', 'pydantic')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode
        == 0
    )


def test_a_request_to_stop_leaves_a_folder_that_goes_on(tmp_path: Path) -> None:
    data = worlds.write_files(tmp_path / "data", n_users=200, n_items=60)
    command = [sys.executable, "-m", "mllm_msr", "run", *worlds.settings(data), "--run", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "candidates.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    done = call("run", *worlds.settings(data), "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not [p for p in (tmp_path / "run").rglob("*") if p.name.endswith(".tmp")]
    assert (tmp_path / "run" / "report.html").exists()
