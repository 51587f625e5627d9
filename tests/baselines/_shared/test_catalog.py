"""Histories before a target, and candidates looked up in catalog scores."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines._shared.catalog import (
    catalog_of,
    distinct_targets,
    histories,
    item_columns,
    score_candidates,
)
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

ROWS = [("a", "x", 1, 0), ("a", "y", 2, 1), ("a", "z", 3, 2), ("b", "y", 4, 0), ("b", "y", 5, 1)]


@pytest.fixture
def interactions():
    return pl.DataFrame(ROWS, schema=dict(INTERACTIONS), orient="row")


def targets(*pairs):
    return pl.DataFrame(pairs, schema={"user_id": pl.String, "position": pl.Int32}, orient="row")


def test_catalog_has_all_items_of_the_table_and_of_the_interactions(interactions):
    items = pl.DataFrame([("new", "", "", None)], schema=dict(ITEMS), orient="row")
    data = TrainingData(interactions, items, empty(CANDIDATES), frozenset())
    assert catalog_of(data) == ("new", "x", "y", "z")


def test_distinct_targets_keep_the_order_of_first_appearance():
    found, rows = distinct_targets(targets(("b", 1), ("a", 2), ("b", 1), ("b", 0)))
    assert list(found.iter_rows()) == [("b", 1), ("a", 2), ("b", 0)]
    assert rows.tolist() == [0, 1, 0, 2]


def test_only_earlier_items_are_read_and_the_latest_has_age_0(interactions):
    found = histories(targets(("a", 2), ("b", 0), ("unknown", 5)), interactions.reverse())
    assert sorted(found.iter_rows()) == [(0, "x", 1), (0, "y", 0)]


def test_n_last_keeps_the_latest_items(interactions):
    found = histories(targets(("a", 3)), interactions, n_last=2)
    assert sorted(found["item_id"]) == ["y", "z"]


def test_item_columns_are_indices_of_the_catalog():
    assert item_columns(pl.Series(["y", "strange", "x"]), ["x", "y"]).tolist() == [1, -1, 0]


class Grid:
    """Scores (row of the call) * 10 + column, in chunks of two."""

    catalog = ("x", "y", "z")

    def score_catalog(self, users, interactions):
        for start in range(0, users.height, 2):
            chunk = users.slice(start, 2)
            yield (
                chunk,
                np.array([[10 * (start + at) + c for c in range(3)] for at in range(len(chunk))]),
            )


def test_candidates_find_their_rows_and_columns_across_chunks(interactions):
    users = ["a", "b", "c", "a", "c", "b"]
    candidates = pl.DataFrame(
        {"user_id": users, "position": [1] * 6, "item_id": ["z", "x", "y", "x", "strange", "z"]}
    )
    found = score_candidates(Grid(), candidates, interactions, unknown=-1.0)
    assert found["score"].to_list() == [2.0, 10.0, 21.0, 0.0, -1.0, 12.0]
