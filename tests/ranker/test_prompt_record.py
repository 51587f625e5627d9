"""The kind of the prompts is recorded with the weights and checked when they are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.errors import DamagedFileError, SettingsError
from mllm_msr.ranker.prompt_record import (
    read_prompt_record,
    require_prompt,
    require_prompt_of,
    write_prompt_record,
)

DEFAULT = RecommendSettings()
USER_FIRST = RecommendSettings(order="user-first")


@pytest.mark.parametrize(
    "settings", [USER_FIRST, RecommendSettings(reads="both", history_items=3, item_text="text")]
)
def test_settings_are_recorded_unless_they_are_the_default(
    settings: RecommendSettings, tmp_path: Path
) -> None:
    write_prompt_record(tmp_path, DEFAULT)
    assert not list(tmp_path.iterdir())
    assert read_prompt_record(tmp_path) == DEFAULT
    write_prompt_record(tmp_path, settings)
    assert read_prompt_record(tmp_path) == settings


def test_other_prompts_are_rejected(tmp_path: Path) -> None:
    require_prompt(tmp_path, DEFAULT)
    with pytest.raises(SettingsError, match=r"is user-first, .* with item-first\. Set recommend"):
        require_prompt(tmp_path, USER_FIRST)
    write_prompt_record(tmp_path, RecommendSettings(order="user-first", reads="history"))
    require_prompt(tmp_path, RecommendSettings(order="user-first", reads="history"))
    # The model can read longer or shorter histories than those that it was trained with.
    longer = RecommendSettings(order="user-first", reads="history", history_items=30)
    require_prompt(tmp_path, longer)
    with pytest.raises(SettingsError) as caught:
        require_prompt(tmp_path, RecommendSettings(item_text="text"))
    order, reads, text = caught.value.problems
    assert "Set recommend.order=user-first, or fine-tune again" in order
    assert "recommend.reads is preference, but" in reads
    assert "Set recommend.item_text=none" in text


@pytest.mark.parametrize("content", ["", "[]", '{"order": "other"}', '{"reads": 3}', "\x00"])
def test_damaged_record_is_reported(content: str, tmp_path: Path) -> None:
    (tmp_path / "prompt.json").write_text(content)
    with pytest.raises(DamagedFileError, match=r"prompt\.json"):
        read_prompt_record(tmp_path)


def test_adapters_and_checkpoints_of_the_settings_are_checked(tmp_path: Path) -> None:
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    base.mkdir()
    tuned.mkdir()
    write_prompt_record(tuned, USER_FIRST)
    for settings in (DEFAULT, USER_FIRST):
        require_prompt_of("mock", {}, settings)
        require_prompt_of("huggingface", {"checkpoint": str(base)}, settings)
        require_prompt_of("huggingface", {"checkpoint": "owner/name"}, settings)
    named = [
        {"adapter": tuned},
        {"checkpoint": str(tuned)},
        {"checkpoint": "a/b", "adapter": tuned},
    ]
    for options in named:
        require_prompt_of("huggingface", options, USER_FIRST)
        with pytest.raises(SettingsError, match="fine-tuned with user-first"):
            require_prompt_of("huggingface", options, DEFAULT)
    with pytest.raises(SettingsError, match="fine-tuned with item-first"):
        require_prompt_of("demo", {"adapter": base}, USER_FIRST)
