"""Target profiles: item popularity, and histories before the target."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.evaluation.target_profiles import build_target_profiles, item_popularity
from mllm_msr.tables import CANDIDATES, INTERACTIONS, TARGET_PROFILES


def interactions(*histories):
    rows = [
        (f"u{user}", item, step, step)
        for user, items in enumerate(histories)
        for step, item in enumerate(items)
    ]
    return pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")


def targets(*rows):
    full = [
        (fold, "test", "uniform", user, position, item, 1) for fold, user, position, item in rows
    ]
    return pl.DataFrame(full, schema=dict(CANDIDATES), orient="row")


@pytest.fixture
def popularity():
    """Return the popularity of a (4 of 4 users), b and c (1 each) and d (none)."""
    visible = interactions("ab", "ac", "a", "a")
    return item_popularity(visible, pl.Series("item_id", list("abcd")), fold=2)


def test_popularity_by_hand(popularity):
    assert popularity["fold"].to_list() == [2] * 4
    assert popularity["n"].to_list() == [4, 1, 1, 0]
    # d: half of itself; b and c share ranks 2 and 3; a: all but half of itself.
    assert popularity["percentile"].to_list() == [0.875, 0.5, 0.5, 0.125]
    assert popularity["bits"].to_list() == [0.0, 2.0, 2.0, 2.0]


def test_profiles_use_only_interactions_before_the_target(popularity):
    whole_history = interactions("abdc")
    found = build_target_profiles(targets((2, "u0", 2, "d")), whole_history, popularity=popularity)
    assert dict(found.schema) == dict(TARGET_PROFILES)
    row = found.row(0, named=True)
    assert (row["n_history"], row["n_target"], row["percentile"]) == (2, 0, 0.125)
    assert row["history_percentile"] == pytest.approx((0.875 + 0.5) / 2)


def test_users_without_a_history_have_a_profile(popularity):
    found = build_target_profiles(
        targets((2, "u0", 0, "a")), interactions("a"), popularity=popularity
    )
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
    found = build_target_profiles(
        targets((1, "u1", 0, "b"), (0, "u0", 0, "b")), interactions("b"), popularity=popularity
    )
    assert found.select("fold", "n_target").rows() == [(0, 0), (1, 2)]
