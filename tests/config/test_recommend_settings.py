"""Section `recommend` of the settings."""

from __future__ import annotations

import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.config.settings import Settings
from mllm_msr.errors import SettingsError


def test_it_is_a_section_of_the_settings() -> None:
    assert Settings().recommend == RecommendSettings(order="item-first")
    assert load_settings("demo", ["recommend.order=user-first"]).recommend.order == "user-first"


def test_other_orders_are_rejected() -> None:
    with pytest.raises(SettingsError, match=r"recommend\.order"):
        load_settings("demo", ["recommend.order=image-first"])


@pytest.mark.parametrize("value", ["null", "none", ""])
def test_null_means_that_there_are_no_collaborative_tokens(value: str) -> None:
    changes = ["model.preset=smollm2-135m", f"recommend.collaborative={value}"]
    assert not load_settings(overrides=changes, environment={}).recommend.reads_vectors
