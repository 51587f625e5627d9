"""Table 3: every system, with the run's seed and model."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import mock_runs
from mllm_msr.baselines._factory import baseline_class
from mllm_msr.config.loading import load_settings
from mllm_msr.experiments._experiment import System
from mllm_msr.experiments.table3 import EXPERIMENT, _baseline_arguments, score_all
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.registry import names


def systems(*overrides: str) -> list[str]:
    settings = load_settings("demo", overrides, environment={})
    return [system.name for system in EXPERIMENT.systems(settings)]


def test_it_contains_every_baseline() -> None:
    assert set(systems()) == {"mllm_msr", "zero_shot", *names("baselines")}
    assert systems()[:4] == ["mllm_msr", "zero_shot", "gru4rec", "sasrec"]


def test_a_run_without_training_fine_tunes_nothing() -> None:
    expected = {"zero_shot", *names("baselines")} - {"tallrec"}
    assert set(systems("train.enabled=false")) == expected


def test_baselines_use_the_seed_and_the_model_of_the_run() -> None:
    settings = load_settings("demo", ["train.seed=3", "baselines.tallrec.seed=5"], environment={})
    changes = _baseline_arguments(settings, ["sasrec", "tallrec"])
    assert changes[:2] == ["baselines.sasrec.seed=3", 'baselines.tallrec.backend="demo"']
    assert not [change for change in changes if change.startswith("baselines.tallrec.seed")]


@pytest.mark.parametrize("name", names("baselines"))
def test_the_default_seed_of_every_baseline_is_that_of_the_run(name: str) -> None:
    # Seed 0 is not passed on, so that scores of `compare` with default arguments are reused.
    settings = load_settings("default", environment={})
    assert settings.train.seed == inspect.signature(baseline_class(name)).parameters["seed"].default


def test_baselines_alone_need_neither_training_nor_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = mock_runs.install(monkeypatch)
    data = mock_runs.world(tmp_path / "data")
    systems = [System(name, name, model=name) for name in ("popularity", "item_knn")]
    settings = mock_runs.load(data, "train.enabled=true")
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        scores = score_all(pipeline, systems)
        assert set(pipeline.run.stages) == {"prepare"}
    assert list(scores) == ["popularity", "item_knn"]
    assert set(counter.counts.values()) == {0}
