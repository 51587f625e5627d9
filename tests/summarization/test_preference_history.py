"""Preference histories: the latest preference and its number of items."""

from __future__ import annotations

import polars as pl

from mllm_msr.summarization.preference_history import latest_preference, n_items_read
from mllm_msr.tables import PREFERENCES, empty

HISTORY = pl.DataFrame(
    [
        ("u", 0, 3, "first", False, ""),
        ("u", 1, 6, "second", False, ""),
        ("u", 2, 7, "third", True, ""),
    ],
    schema=dict(PREFERENCES),
    orient="row",
)


def test_latest_preference_does_not_depend_on_row_order() -> None:
    for history in (HISTORY, HISTORY.reverse(), HISTORY.sample(fraction=1.0, shuffle=True, seed=1)):
        assert latest_preference(history) == "third"
        assert n_items_read(history) == 7


def test_a_user_without_preferences_has_no_latest_preference() -> None:
    assert latest_preference(empty(PREFERENCES)) == ""
    assert n_items_read(empty(PREFERENCES)) == 0
