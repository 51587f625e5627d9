"""Table 1: GRU4Rec reads either image summaries or image features."""

from __future__ import annotations

from mllm_msr.config.loading import load_settings
from mllm_msr.experiments.table1 import EXPERIMENT


def test_both_systems_differ_only_in_their_content() -> None:
    summaries, features = EXPERIMENT.systems(load_settings("demo", environment={}))
    assert "baselines.content=image_summary" in summaries.variant.overrides
    assert "baselines.content=image" in features.variant.overrides
    assert set(summaries.variant.overrides) ^ set(features.variant.overrides) == {
        "baselines.content=image_summary",
        "baselines.content=image",
    }
