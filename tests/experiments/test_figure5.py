"""Figure 5: block sizes around the run's own setting."""

from __future__ import annotations

from mllm_msr.config.loading import load_settings
from mllm_msr.experiments.figure5 import EXPERIMENT


def test_the_runs_own_block_size_comes_first_and_needs_no_variant() -> None:
    first, *others = EXPERIMENT.systems(load_settings("demo", environment={}))
    assert (first.label, first.variant) == ("3 items", None)
    assert all(system.variant is not None for system in others)
    assert others[0].label == "1 item"


def test_the_sweep_covers_all_sizes_for_every_setting() -> None:
    settings = load_settings("demo", ["infer.block_size=5"], environment={})
    first, *others = EXPERIMENT.systems(settings)
    assert first.x == 5
    assert sorted(system.x for system in others) == [1, 2, 3, 4, 6]
