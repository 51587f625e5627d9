"""Prompts of an estimate: real histories, and texts of other users and items where none exist."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from mllm_msr.config.settings import Settings
from mllm_msr.pipeline.cost.ranking_prompts import RankingPrompts
from mllm_msr.prompts.item_types import find_item_type
from mllm_msr.tables import INTERACTIONS, ITEMS, SUMMARIES

CATALOG = pl.DataFrame(
    [(name, f"Title {name}", f"Text {name}.", None) for name in "abc"],
    schema=dict(ITEMS),
    orient="row",
)
HISTORY = pl.DataFrame(
    [("u", "a", 0, 0), ("u", "b", 1, 1)], schema=dict(INTERACTIONS), orient="row"
)
SUMMARY = pl.DataFrame(
    [("a", "", None, "Summary a.", "ok", "")], schema=dict(SUMMARIES), orient="row"
)
ROWS = pl.DataFrame({"user_id": ["u", "u"], "position": [1, 2], "item_id": ["b", "c"]})


def build(options: dict[str, Any], **changes: bool) -> list[str]:
    settings = Settings.model_validate({"recommend": options})
    prompts = RankingPrompts(settings, CATALOG, HISTORY, item_type=find_item_type("film"))
    order = settings.recommend.order
    made = prompts.build(ROWS, ["first", "second"], SUMMARY, order, **changes)
    return [prompt.text for prompt in made]


def test_preferences_are_spread_over_the_rows() -> None:
    first, second = build({})
    assert '"first"' in first
    assert '"second"' in second
    assert "Title b" in first
    other, _ = build({}, other_user=True)
    assert '"Something else."' in other


def test_histories_are_those_of_the_rows() -> None:
    first, second = build({"reads": "history", "item_text": "text"})
    assert 'the latest first: "Title a"' in first
    assert 'the latest first: "Title b; Title a"' in second
    assert '"Text c."' in second
    assert "second" not in second
    other, _ = build({"reads": "history"}, other_user=True)
    assert 'the latest first: "Something else."' in other


@pytest.mark.parametrize("other_item", [False, True])
def test_items_without_a_summary_use_that_of_another(other_item: bool) -> None:
    _, second = build({"item_text": "summary"}, other_item=other_item)
    assert ('"Summary a."' in second) == (not other_item)
    assert ("Title c" in second) == (not other_item)
