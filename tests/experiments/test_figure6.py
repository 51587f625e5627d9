"""Figure 6: length limits of preferences around the run's own setting."""

from __future__ import annotations

from mllm_msr.config.loading import load_settings
from mllm_msr.experiments.figure6 import EXPERIMENT


def test_the_runs_own_limit_comes_first_and_needs_no_variant() -> None:
    first, *others = EXPERIMENT.systems(load_settings("demo", environment={}))
    assert (first.label, first.x, first.variant) == ("80 words", 80, None)
    assert [system.x for system in others] == [10, 15, 20, 40]
    assert others[0].variant.overrides == ("infer.words=10",)
