"""Hyperparameter search: reproducible by seed, resumable, and without rows of test users."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml

import mock_runs
from mllm_msr import registry
from mllm_msr.baselines.transitions import Transitions
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import DataError, StaleStageError, TrainingError, UsageError
from mllm_msr.models.encoders.text.hashing import HashingEncoder
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.pipeline.tune import TuningResult, tune

pytest.importorskip("optuna")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return mock_runs.world(tmp_path / "data")


def search(folder: Path, data: Path, *more: str, trials: int = 4, **options) -> list[TuningResult]:
    with Pipeline.open(folder, mock_runs.load(data, *more)) as pipeline:
        return tune(pipeline, ["transitions"], trials=trials, metric="auc", **options)


def without_seconds(found: list[TuningResult]) -> list[tuple]:
    return [(t.model, t.trials, t.failed, t.default, t.best, t.settings) for t in found]


def test_a_search_starts_with_the_defaults_and_is_reproducible_by_seed(tmp_path: Path, data: Path):
    first = search(tmp_path / "a", data)
    assert without_seconds(first) == without_seconds(search(tmp_path / "b", data))
    assert first[0].trials == 4
    assert first[0].default is not None
    assert first[0].best >= first[0].default
    assert trials_of(tmp_path / "a") == trials_of(tmp_path / "b")
    assert trials_of(tmp_path / "a")[0] == {"smoothing": 10.0, "window": 10, "decay": 0.8}
    search(tmp_path / "c", data, seed=1)
    assert trials_of(tmp_path / "c")[0] == trials_of(tmp_path / "a")[0]
    assert trials_of(tmp_path / "c")[1:] != trials_of(tmp_path / "a")[1:]


def test_trials_share_the_content_vectors_of_the_run(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
):
    encoded, encode = [], HashingEncoder.encode
    monkeypatch.setattr(
        HashingEncoder, "encode", lambda self, texts: encoded.append(1) or encode(self, texts)
    )
    with Pipeline.open(tmp_path / "run", mock_runs.load(data)) as pipeline:
        tune(pipeline, ["content_knn"], trials=3, metric="auc")
    assert len(encoded) == 1


def trials_of(folder: Path) -> list[dict]:
    import optuna

    study = optuna.load_study(
        study_name="transitions", storage=f"sqlite:///{folder}/tuning/transitions.sqlite"
    )
    return [trial.params for trial in study.trials if trial.value is not None]


def test_a_killed_search_resumes_with_the_same_trials(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = search(tmp_path / "whole", data)
    fitted, fit = [], Transitions.fit

    def fit_until_killed(self, given):
        fitted.append(self)
        if len(fitted) in {1, 4}:
            raise KeyboardInterrupt
        return fit(self, given)

    monkeypatch.setattr(Transitions, "fit", fit_until_killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "killed", data)
    assert without_seconds(search(tmp_path / "killed", data)) == without_seconds(whole)
    assert trials_of(tmp_path / "killed") == trials_of(tmp_path / "whole")
    assert len(fitted) == 4 + 2


def test_more_trials_continue_an_earlier_search(tmp_path: Path, data: Path):
    search(tmp_path / "run", data, trials=2)
    found = search(tmp_path / "run", data, trials=4)
    assert without_seconds(found) == without_seconds(search(tmp_path / "new", data, trials=4))


def test_rows_of_test_users_are_not_read(tmp_path: Path, data: Path):
    found = search(tmp_path / "clean", data)
    folder = tmp_path / "poisoned"
    with Pipeline.open(folder, mock_runs.load(data)) as pipeline:
        pipeline.run_stage("prepare")
        poison(pipeline)
    assert without_seconds(search(folder, data)) == without_seconds(found)


def poison(pipeline: Pipeline) -> None:
    """Change the candidates and the hidden item of every test user of the first fold."""
    run, conditions = pipeline.run, pipeline.run.stages["prepare"]["settings"]
    tables = {name: run.read(name) for name in ("interactions", "items", "splits", "candidates")}
    tested = tables["splits"].filter(fold=0, split="test")["user_id"]
    is_last = pl.col("position") == pl.col("position").max().over("user_id")
    hidden = is_last & pl.col("user_id").is_in(tested.implode())
    poisoned = pl.when(hidden).then(pl.lit("poison")).otherwise("item_id").alias("item_id")
    tables["interactions"] = tables["interactions"].with_columns(poisoned)
    is_test = (pl.col("split") == "test") & (pl.col("fold") == 0)
    tables["candidates"] = tables["candidates"].with_columns(
        item_id=pl.when(is_test).then(pl.lit("poison")).otherwise("item_id"),
        label=pl.when(is_test).then(1 - pl.col("label")).otherwise("label"),
    )
    about = run.verified("dataset.json").read_text()
    with run.stage("prepare", settings=conditions, force=True) as stage:
        for name, frame in tables.items():
            stage.write(name, frame)
        stage.write_text("dataset.json", about)


def test_the_best_settings_are_a_settings_file(tmp_path: Path, data: Path):
    found = search(tmp_path / "run", data)
    best = tmp_path / "run" / "tuning" / "best.yaml"
    settings = load_settings(None, file=[tmp_path / "run" / "config.yaml", best], environment={})
    assert settings.baselines.arguments("transitions") == found[0].settings
    records = json.loads((best.parent / "trials.json").read_text())
    assert records["transitions"]["trials"] == 4
    assert yaml.safe_load(best.read_text())["baselines"]["transitions"] == found[0].settings


def test_arguments_in_the_settings_are_not_searched(tmp_path: Path, data: Path):
    found = search(tmp_path / "run", data, "baselines.transitions.window=3")
    assert found[0].settings["window"] == 3
    assert all("window" not in trial for trial in trials_of(tmp_path / "run"))


def test_failed_trials_count(tmp_path: Path, data: Path, monkeypatch):
    def fail(self, given):
        raise TrainingError("The loss is not finite.")

    monkeypatch.setattr(Transitions, "fit", fail)
    with pytest.raises(
        TrainingError, match=r"All 2 trials of 'transitions' failed\..*The loss is not finite"
    ):
        search(tmp_path / "run", data, trials=2)


def test_a_search_with_other_conditions_cannot_resume(tmp_path: Path, data: Path):
    search(tmp_path / "run", data, trials=1)
    with pytest.raises(
        StaleStageError, match=r"because of changes since its start: seed\. .*transitions\.sqlite"
    ):
        search(tmp_path / "run", data, trials=1, seed=1)


def test_a_search_with_other_content_cannot_resume(tmp_path: Path, data: Path):
    search(tmp_path / "run", data)
    with pytest.raises(StaleStageError, match=r"changes since its start: fixed settings\."):
        search(tmp_path / "run", data, "baselines.content=text")


def test_unknown_metrics_and_models_without_a_search_space_are_rejected(tmp_path: Path, data: Path):
    with Pipeline.open(tmp_path / "run", mock_runs.load(data)) as pipeline:
        assert "hybrid" in registry.names("baselines")
        with pytest.raises(UsageError, match="'hybrid' declares no search space"):
            tune(pipeline, ["hybrid"], trials=1)
        with pytest.raises(UsageError, match="Unknown metric 'acc'"):
            tune(pipeline, ["transitions"], trials=1, metric="acc")


def test_a_fold_without_validation_users_is_rejected(tmp_path: Path, data: Path):
    settings = mock_runs.load(data, "data.validation_fraction=0")
    with (
        Pipeline.open(tmp_path / "other", settings) as pipeline,
        pytest.raises(DataError, match="Fold 0 has no validation users"),
    ):
        tune(pipeline, ["transitions"], trials=1)
