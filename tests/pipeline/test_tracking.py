"""Tests for the metrics of finished stages in trackers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest
from lightning.pytorch.loggers import CSVLogger

import mock_runs
from mllm_msr import errors
from mllm_msr.errors import MissingExtraError
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.pipeline.tracking import metric_values, stage_values


def logged(folder: Path) -> list[dict[str, float]]:
    """Return the values that the stages have written, the oldest first."""
    files = (folder / "tracking" / "csv").rglob("metrics.csv")
    ordered = sorted(files, key=lambda file: int(file.parent.name.removeprefix("version_")))
    return [pl.read_csv(file).drop("step").row(0, named=True) for file in ordered]


def test_each_finished_stage_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    settings = mock_runs.load(mock_runs.world(tmp_path / "data"), "train.loggers=csv")
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        for name in ("prepare", "summarize", "infer", "score", "evaluate"):
            pipeline.run_stage(name)
        pipeline.run_stage("evaluate")  # is already done
        stages = dict(pipeline.run.stages)
    prepare, summarize, *_, evaluate = logged(tmp_path / "run")
    assert len(logged(tmp_path / "run")) == 5
    assert prepare["prepare/users"] == 8
    assert summarize["summarize/misses"] == stages["summarize"]["counts"]["misses"]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    auc = metrics["zero_shot"]["uniform"]["auc"]
    assert evaluate["zero_shot/uniform/auc"] == pytest.approx(auc["mean"])
    assert evaluate["zero_shot/uniform/auc/low"] == pytest.approx(auc["low"])


def test_missing_package_stops_before_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "EXTRAS", {**errors.EXTRAS, "wandb": ("absent",)})
    settings = mock_runs.load(mock_runs.world(tmp_path / "data"), "train.loggers=wandb")
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        with pytest.raises(MissingExtraError, match=r"mllm-msr\[wandb\]"):
            pipeline.run_stage("prepare")
        assert dict(pipeline.run.stages) == {}


def test_failing_tracker_does_not_undo_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(CSVLogger, "log_metrics", fail)
    settings = mock_runs.load(mock_runs.world(tmp_path / "data"), "train.loggers=csv")
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_stage("prepare")
        assert "prepare" in pipeline.run.stages
    assert "The tracker csv did not accept the metrics: no route to host" in caplog.text


def test_values_that_are_not_finite_are_left_out() -> None:
    entry = {"counts": {"best_auc": math.nan, "steps": 3}, "seconds": 1.5}
    found = dict(stage_values({"train/0": entry}))  # type: ignore[dict-item]
    assert found == {"train/0/steps": 3.0, "train/0/seconds": 1.5}
    cell = {"mean": 0.5, "low": None, "high": math.inf, "n": 3}
    assert metric_values({"m": {"full": {"auc": cell}}}) == {"m/full/auc": 0.5}
