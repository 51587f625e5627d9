from __future__ import annotations

import json

import pytest

from mllm_msr.errors import SettingsError
from mllm_msr.ranker.training.config import TrainingOptions


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        TrainingOptions(rank=0, dropout=1.0, strategy="magic")
    message = str(caught.value)
    assert "train.rank must be above 0, it is 0" in message
    assert "train.dropout must be in [0, 1), it is 1.0" in message
    assert "train.strategy must be one of auto, ddp" in message


def test_fingerprint_names_what_changes_the_result_and_is_json() -> None:
    base = TrainingOptions().fingerprint()
    assert json.loads(json.dumps(base)) == base
    assert TrainingOptions(checkpoint_every=7, cache_vision=False).fingerprint() == base
    assert TrainingOptions(seed=1).fingerprint() != base
    named = TrainingOptions(target=("v_proj", "q_proj")).fingerprint()
    assert named == TrainingOptions(target=("q_proj", "v_proj")).fingerprint()


def test_full_sharding_in_fp16_is_refused() -> None:
    with pytest.raises(SettingsError, match="fsdp has no loss scaling"):
        TrainingOptions(strategy="fsdp", precision="fp16")
    TrainingOptions(strategy="fsdp", precision="bf16")
