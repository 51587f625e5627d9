"""Table 3: every system, with the run's seed and model."""

from __future__ import annotations

from mllm_msr.config.loading import load_settings
from mllm_msr.experiments.table3 import EXPERIMENT, _baseline_arguments
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
