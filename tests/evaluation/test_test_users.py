"""What is known before scoring: popularity, and histories before the target."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.evaluation.test_users import build_cases, item_popularity
from mllm_msr.tables import CANDIDATES, CASES, INTERACTIONS


def interactions(*histories):
    rows = [
        (f"u{user}", item, step, step)
        for user, items in enumerate(histories)
        for step, item in enumerate(items)
    ]
    return pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")


def targets(*rows):
    full = [(fold, "test", "uniform", user, at, item, 1) for fold, user, at, item in rows]
    return pl.DataFrame(full, schema=dict(CANDIDATES), orient="row")


@pytest.fixture
def popularity():
    """a: 4 of 4 users, b and c: 1 each, d: nobody."""
    visible = interactions("ab", "ac", "a", "a")
    return item_popularity(visible, pl.Series("item_id", list("abcd")), fold=2)


def test_popularity_by_hand(popularity):
    assert popularity["fold"].to_list() == [2] * 4
    assert popularity["n"].to_list() == [4, 1, 1, 0]
    # d below all: half of itself; b and c share places 2 and 3; a above all but half of itself.
    assert popularity["percentile"].to_list() == [0.875, 0.5, 0.5, 0.125]
    assert popularity["bits"].to_list() == [0.0, 2.0, 2.0, 2.0]


def test_cases_read_nothing_from_the_target_on(popularity):
    everything = interactions("abdc")
    found = build_cases(targets((2, "u0", 2, "d")), everything, popularity=popularity)
    assert dict(found.schema) == dict(CASES)
    row = found.row(0, named=True)
    assert (row["n_history"], row["n_target"], row["percentile"]) == (2, 0, 0.125)
    assert row["history_percentile"] == pytest.approx((0.875 + 0.5) / 2)


def test_a_user_without_a_history_is_kept(popularity):
    found = build_cases(targets((2, "u0", 0, "a")), interactions("a"), popularity=popularity)
    row = found.row(0, named=True)
    assert (row["n_history"], row["history_percentile"], row["n_target"]) == (0, None, 4)


def test_folds_have_their_own_counts():
    ids = pl.Series("item_id", ["a", "b"])
    popularity = pl.concat(
        [
            item_popularity(interactions("a"), ids, fold=0),
            item_popularity(interactions("b", "b"), ids, fold=1),
        ]
    )
    found = build_cases(
        targets((1, "u1", 0, "b"), (0, "u0", 0, "b")), interactions("b"), popularity=popularity
    )
    assert found.select("fold", "n_target").rows() == [(0, 0), (1, 2)]
