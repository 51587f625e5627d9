"""Figure 4: ablations, and the zero-shot ranker only in addition to a fine-tuned one."""

from __future__ import annotations

from mllm_msr.config.loading import load_settings
from mllm_msr.experiments.figure4 import EXPERIMENT


def systems(*overrides: str) -> list[str]:
    settings = load_settings("demo", overrides, environment={})
    return [system.name for system in EXPERIMENT.systems(settings)]


def test_the_full_system_comes_before_its_ablations() -> None:
    assert systems() == ["mllm_msr", "mllm_msr_direct", "mllm_msr_text_only", "zero_shot"]


def test_a_run_without_training_has_no_zero_shot_row() -> None:
    assert "zero_shot" not in systems("train.enabled=false")
