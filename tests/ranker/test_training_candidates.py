"""Targets and negatives of the ranker's training: spread, distribution, determinism, no leaks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest

from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.errors import DataError
from mllm_msr.ranker.training_candidates import (
    draw_training_candidates,
    select_candidates,
    select_targets,
)
from mllm_msr.tables import CANDIDATES, INTERACTIONS

N_ITEMS = 40


@pytest.fixture(scope="module")
def interactions() -> pl.DataFrame:
    """Histories of 300 users; item 0 is in a third of all, item n is rarer than item n - 1."""
    noise = np.random.default_rng(0)
    weights = 1 / np.arange(1, N_ITEMS + 1) ** 1.5
    rows = []
    for user in range(300):
        items = noise.choice(N_ITEMS, 6, replace=False, p=weights / weights.sum())
        rows += [(f"u{user}", f"i{item}", n, n) for n, item in enumerate(items)]
    return pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")


def targets(interactions: pl.DataFrame) -> pl.DataFrame:
    rows = interactions.filter(pl.col("position") > 0)
    table = rows.select("user_id", "position", "item_id").with_columns(
        fold=pl.lit(0, dtype=pl.Int32),
        split=pl.lit("train"),
        negatives=pl.lit("uniform"),
        label=pl.lit(1, dtype=pl.Int8),
    )
    return table.select(*CANDIDATES)


def draw(interactions: pl.DataFrame, **options: float) -> pl.DataFrame:
    given = {"n_negatives": 2, "popularity": 0.5, "seed": 0, **options}
    return draw_training_candidates(targets(interactions), interactions, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("popularity", [0.0, 0.3, 1.0])
def test_negatives_are_distinct_and_never_in_the_history(
    popularity: float, interactions: pl.DataFrame
) -> None:
    table = draw(interactions, n_negatives=5, popularity=popularity)
    assert dict(table.schema) == dict(CANDIDATES)
    assert table.height == 6 * targets(interactions).height
    lists = table.group_by("user_id", "position").agg(
        n=pl.col("item_id").n_unique(), positives=pl.col("label").sum()
    )
    assert set(lists["n"]) == {6}
    assert set(lists["positives"]) == {1}
    seen = interactions.select("user_id", "item_id")
    assert table.filter(pl.col("label") == 0).join(seen, on=["user_id", "item_id"]).is_empty()
    positives = table.filter(pl.col("label") == 1)
    key = ["user_id", "position", "item_id"]
    assert positives.join(interactions, on=key, how="semi").height == positives.height
    # The candidates of a target are together, and its positive is at a random place.
    place = table["label"].to_numpy().reshape(-1, 6).argmax(axis=1)
    assert min(Counter(place.tolist()).values()) > 0.8 * len(place) / 6


def test_shares_of_both_kinds_are_as_requested(interactions: pl.DataFrame) -> None:
    """Popular items are drawn more often, in proportion to the share of popularity negatives."""

    def share_of_popular(popularity: float, n_negatives: int = 1) -> float:
        table = draw(interactions, n_negatives=n_negatives, popularity=popularity)
        negatives = table.filter(pl.col("label") == 0)["item_id"]
        return float(negatives.is_in(["i0", "i1", "i2", "i3"]).mean() or 0)

    uniform, half, popular = (share_of_popular(share) for share in (0.0, 0.5, 1.0))
    assert popular > 2 * uniform
    assert half == pytest.approx((uniform + popular) / 2, abs=0.03)
    assert share_of_popular(0.5, 2) == pytest.approx(half, abs=0.03)


def test_draws_depend_on_the_seed_and_the_target_alone(interactions: pl.DataFrame) -> None:
    table = draw(interactions)
    shuffled = interactions.sample(fraction=1.0, shuffle=True, seed=1)
    again = draw_training_candidates(
        targets(shuffled), shuffled, n_negatives=2, popularity=0.5, seed=0
    )
    assert again.equals(table)
    assert not draw(interactions, seed=1).equals(table)
    some = targets(interactions).filter(pl.col("user_id") == "u7")
    own = draw_training_candidates(some, interactions, n_negatives=2, popularity=0.5, seed=0)
    assert own.equals(table.filter(pl.col("user_id") == "u7"))


def test_unseen_items_are_never_drawn(interactions: pl.DataFrame) -> None:
    """Only items of the training interactions are negatives, not those of hidden targets."""
    visible = interactions.filter(pl.col("item_id") != "i5")
    assert "i5" not in set(draw(visible, n_negatives=10)["item_id"])


def test_too_few_new_items_are_reported(interactions: pl.DataFrame) -> None:
    with pytest.raises(DataError, match="Cannot draw 35 negatives"):
        draw(interactions, n_negatives=35)


def test_targets_are_spread_over_the_history() -> None:
    rows = pl.DataFrame(
        [("u", n) for n in range(1, 13)] + [("v", 3), ("v", 9)],
        schema=["user_id", "position"],
        orient="row",
    )
    three = select_targets(rows, TrainSettings(targets_per_user=3))
    assert three.rows() == [("u", 4), ("u", 8), ("u", 12), ("v", 3), ("v", 9)]
    one = select_targets(rows, TrainSettings(targets_per_user=1))
    assert one.rows() == [("u", 12), ("v", 9)]
    assert select_targets(rows, TrainSettings(targets_per_user=50)).equals(rows)
    five = select_targets(rows, TrainSettings(max_targets=5))
    assert five.height == 5
    assert five.equals(rows.join(five, on=["user_id", "position"], how="semi"))
    assert select_targets(rows, TrainSettings(max_targets=5)).equals(five)
    assert not select_targets(rows, TrainSettings(max_targets=5, seed=1)).equals(five)


def test_prepared_candidates_are_used_unless_settings_differ(interactions: pl.DataFrame) -> None:
    prepared = draw(interactions, n_negatives=1, seed=5)
    assert select_candidates(prepared, interactions, TrainSettings()) is prepared
    fewer = select_candidates(prepared, interactions, TrainSettings(targets_per_user=2))
    assert fewer.height == 2 * 2 * 300
    assert fewer.join(prepared, on=list(CANDIDATES), how="semi").equals(fewer)
    drawn = select_candidates(
        prepared, interactions, TrainSettings(negatives_per_positive=3, max_targets=10)
    )
    assert drawn.height == 4 * 10
