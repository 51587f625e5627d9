"""The order of the prompts is recorded with the weights and checked when they are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.errors import DamagedFileError, SettingsError
from mllm_msr.ranker.prompt_order import (
    read_order,
    require_order,
    require_order_of,
    write_order,
)


def test_order_is_recorded_unless_it_is_the_default(tmp_path: Path) -> None:
    write_order(tmp_path, "item-first")
    assert not list(tmp_path.iterdir())
    assert read_order(tmp_path) == "item-first"
    write_order(tmp_path, "user-first")
    assert read_order(tmp_path) == "user-first"


def test_other_order_is_rejected(tmp_path: Path) -> None:
    require_order(tmp_path, "item-first")
    with pytest.raises(SettingsError, match=r"is user-first, .* with item-first\. Set recommend"):
        require_order(tmp_path, "user-first")
    write_order(tmp_path, "user-first")
    require_order(tmp_path, "user-first")
    with pytest.raises(SettingsError, match=r"Set recommend\.order=user-first, or fine-tune"):
        require_order(tmp_path, "item-first")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"order": "other"}', "\x00"])
def test_damaged_record_is_reported(content: str, tmp_path: Path) -> None:
    (tmp_path / "prompt.json").write_text(content)
    with pytest.raises(DamagedFileError, match=r"prompt\.json"):
        read_order(tmp_path)


def test_adapters_and_checkpoints_of_the_settings_are_checked(tmp_path: Path) -> None:
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    base.mkdir()
    tuned.mkdir()
    write_order(tuned, "user-first")
    for order in ("item-first", "user-first"):
        require_order_of("mock", {}, order)
        require_order_of("huggingface", {"checkpoint": str(base)}, order)
        require_order_of("huggingface", {"checkpoint": "owner/name"}, order)
    named = [
        {"adapter": tuned},
        {"checkpoint": str(tuned)},
        {"checkpoint": "a/b", "adapter": tuned},
    ]
    for options in named:
        require_order_of("huggingface", options, "user-first")
        with pytest.raises(SettingsError, match="fine-tuned with user-first"):
            require_order_of("huggingface", options, "item-first")
    with pytest.raises(SettingsError, match="fine-tuned with item-first"):
        require_order_of("demo", {"adapter": base}, "user-first")
