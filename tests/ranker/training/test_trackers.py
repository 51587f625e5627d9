"""Tests for trackers: files of Lightning's loggers, continued runs, missing packages."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mllm_msr import errors
from mllm_msr.errors import MissingExtraError, UsageError
from mllm_msr.ranker.training.trackers import make_trackers, require_trackers


def log(folder: Path, values: dict[str, float], *names: str, step: int | None = None) -> None:
    for tracker in make_trackers(names, folder, run="shop"):  # type: ignore[arg-type]
        tracker.log_metrics(values, step=step)
        tracker.save()
        tracker.finalize("success")


def test_csv_has_one_table_per_process(tmp_path: Path) -> None:
    log(tmp_path, {"train/loss": 0.5}, "csv", step=3)
    log(tmp_path, {"evaluate/seconds": 2.0}, "csv")
    files = sorted((tmp_path / "tracking" / "csv").rglob("metrics.csv"))
    first, second = map(pl.read_csv, files)
    assert first.to_dicts() == [{"step": 3, "train/loss": 0.5}]
    assert second["evaluate/seconds"].to_list() == [2.0]


def test_tensorboard_shows_values_of_several_processes(tmp_path: Path) -> None:
    for step in (1, 2):
        log(tmp_path, {"train/loss": 1 / step}, "tensorboard", step=step)
    events = EventAccumulator(str(tmp_path / "tracking" / "tensorboard")).Reload()
    found = [(one.step, one.value) for one in events.Scalars("train/loss")]
    assert found == [(1, 1.0), (2, 0.5)]


def test_run_of_wandb_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log offline in two processes, as two commands do."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from mllm_msr.ranker.training.trackers import make_trackers
        (tracker,) = make_trackers(["wandb"], Path(sys.argv[1]), run="shop")
        tracker.log_metrics({"train/loss": 0.5}, step=1)
        tracker.finalize("success")
        """
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)
    run_id = json.loads((tmp_path / "tracking" / "runs.json").read_text())["wandb"]
    runs = list((tmp_path / "tracking" / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert all(run.name.endswith(f"-{run_id}") for run in runs)
    assert all(b"train/loss" in (run / f"run-{run_id}.wandb").read_bytes() for run in runs)


def test_run_of_mlflow_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    log(tmp_path, {"train/loss": 0.5}, "mlflow", step=1)
    log(tmp_path, {"mllm_msr/uniform/auc": 0.75}, "mlflow")
    client = mlflow.tracking.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mllm-msr")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics == {"train/loss": 0.5, "mllm_msr/uniform/auc": 0.75}
    assert run.info.status == "FINISHED"


def test_run_of_trackio_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log in two processes, as two commands do."""
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from mllm_msr.ranker.training.trackers import make_trackers
        (tracker,) = make_trackers(["trackio"], Path(sys.argv[1]), run="shop")
        tracker.log_metrics({"train/loss": float(sys.argv[2])}, step=int(sys.argv[3]))
        tracker.finalize("success")
        """
    )
    for values in (("0.5", "1"), ("0.25", "2")):
        command = [sys.executable, "-c", program, str(tmp_path), *values]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        assert done.stdout == ""  # it is for results
    with closing(sqlite3.connect(tmp_path / "trackio" / "mllm-msr.db")) as database:
        query = "SELECT run_name, step, metrics FROM metrics ORDER BY step"
        rows = [(run, step, json.loads(text)) for run, step, text in database.execute(query)]
    assert rows == [("shop", 1, {"train/loss": 0.5}), ("shop", 2, {"train/loss": 0.25})]


def test_mlflow_needs_the_address_of_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "EXTRAS", {**errors.EXTRAS, "mlflow": ()})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    require_trackers(("mlflow",))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UsageError, match=r"mlflow needs MLFLOW_TRACKING_URI\. Set it to"):
        require_trackers(("mlflow",))


def test_missing_package_is_named_with_the_command_for_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_trackers(("csv", "tensorboard"))
    assert make_trackers((), tmp_path, run="shop") == []
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(errors, "EXTRAS", {**errors.EXTRAS, "mlflow": ("absent",)})
    with pytest.raises(MissingExtraError, match=r"'absent' is not installed.*pip install.*mlflow"):
        make_trackers(("csv", "mlflow"), tmp_path, run="shop")
