"""Nested settings of a source."""

from __future__ import annotations

from typing import Any

from mllm_msr.config.nested import flat, lookup, merge


def test_values_are_found_by_their_dotted_key() -> None:
    settings = {"train": {"rank": 4}, "item_type": "book"}
    assert lookup(settings, "train.rank") == 4
    assert lookup(settings, "item_type") == "book"
    assert lookup(settings, "train.rank.more") is lookup(settings, "score.model") is None


def test_sections_are_merged_and_values_are_replaced() -> None:
    target: dict[str, Any] = {"train": {"rank": 4, "seed": 1}, "infer": None}
    merge(target, {"train": {"rank": 8}, "infer": {"words": 9}, "item_type": "book"})
    assert target == {
        "train": {"rank": 8, "seed": 1},
        "infer": {"words": 9},
        "item_type": "book",
    }


def test_lists_and_empty_sections_are_values() -> None:
    settings = {"evaluate": {"ks": [1, 3]}, "serve": {"models": {}}, "preset": "demo"}
    found = {"evaluate.ks": [1, 3], "serve.models": {}, "preset": "demo"}
    assert dict(flat(settings)) == found
