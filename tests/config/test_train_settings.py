"""Section `train`: validation of its settings."""

from __future__ import annotations

import pytest

from mllm_msr.config.loading import validate_section
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.errors import SettingsError


def test_all_problems_of_a_section_are_reported_together() -> None:
    with pytest.raises(SettingsError) as caught:
        validate_section(
            TrainSettings, {"rank": 0, "dropout": 1.0, "strategy": "magic"}, key="train"
        )
    assert len(caught.value.problems) == 3
    message = str(caught.value)
    assert "train.rank=0" in message
    assert "train.dropout=1.0" in message
    assert "train.strategy='magic'" in message
    assert "'auto', 'ddp'" in message


def test_fsdp_in_fp16_is_rejected() -> None:
    with pytest.raises(SettingsError, match=r"fp16\. Set train\.precision to bf16"):
        validate_section(TrainSettings, {"strategy": "fsdp", "precision": "fp16"}, key="train")
    settings = validate_section(
        TrainSettings, {"strategy": "fsdp", "precision": "bf16"}, key="train"
    )
    assert settings == TrainSettings(strategy="fsdp")


def test_epochs_may_be_fractions() -> None:
    assert TrainSettings(epochs=0.5).epochs == 0.5


def test_listwise_training_compares_answers_only() -> None:
    with pytest.raises(SettingsError, match=r"Set train\.loss=answer or train\.objective=pointw"):
        validate_section(TrainSettings, {"objective": "listwise", "loss": "full"}, key="train")
    assert TrainSettings(objective="listwise").loss == "answer"


def test_settings_of_own_negatives_need_a_number_of_them() -> None:
    with pytest.raises(SettingsError, match=r"Set train\.negatives_per_positive as well"):
        validate_section(TrainSettings, {"popularity_negatives": 0.5}, key="train")
    with pytest.raises(SettingsError, match="less than or equal to 1"):
        validate_section(TrainSettings, {"popularity_negatives": 1.5}, key="train")
    assert TrainSettings(negatives_per_positive=2, popularity_negatives=0.5)


def test_methods_write_an_adapter_or_all_weights() -> None:
    formats = {
        method: TrainSettings(method=method).weight_format
        for method in ("lora", "full", "frozen-lower-layers")
    }
    assert formats == {"lora": "lora", "full": "full", "frozen-lower-layers": "full"}
