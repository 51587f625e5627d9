"""Regression tests of the protocols on real data: sizes after filtering and AUC of popularity.

Skipped unless the environment variable MLLM_MSR_REAL_DATA names a folder with the datasets
`microlens-50k` and `movielens-posters`.
"""

import os
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.data.negative_sampling import draw_candidates
from mllm_msr.data.preprocessing import prepare_interactions
from mllm_msr.data.splits import (
    released_code_interactions,
    released_code_split,
    split_users,
    visible_interactions,
)
from mllm_msr.datasets.microlens import MicroLens
from mllm_msr.datasets.movielens import MovieLens

REAL = os.environ.get("MLLM_MSR_REAL_DATA")

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not REAL, reason="MLLM_MSR_REAL_DATA is not set"),
]


@pytest.fixture(scope="module")
def microlens() -> pl.LazyFrame:
    return MicroLens(path=Path(REAL or "", "microlens-50k")).load().interactions


@pytest.fixture(scope="module")
def movielens() -> pl.LazyFrame:
    return MovieLens(path=Path(REAL or "", "movielens-posters")).load().interactions


def popularity_auc(interactions: pl.DataFrame, splits: pl.DataFrame) -> dict[str, float]:
    """Return the mean AUC of the training users' item counts; ties count half."""
    parts = []
    for fold in splits["fold"].unique():
        visible, train_users = visible_interactions(interactions, splits, fold)
        counts = (
            visible.filter(pl.col("user_id").is_in(list(train_users)))
            .group_by("item_id")
            .agg(score=pl.len().cast(pl.Int64))
        )
        parts.append(
            draw_candidates(interactions, splits, folds=[fold])
            .filter(pl.col("split") == "test")
            .join(counts, on="item_id", how="left")
            .with_columns(pl.col("score").fill_null(0))
        )
    score = pl.col("score")
    positive = score.filter(pl.col("label") == 1).first()
    others = score.filter(pl.col("label") == 0)
    auc = (others < positive).mean() + (others == positive).mean() / 2
    users = pl.concat(parts).group_by("negatives", "user_id").agg(auc=auc)
    return dict(users.group_by("negatives").agg(pl.col("auc").mean()).rows())


@pytest.mark.parametrize(
    ("min_user_interactions", "sizes", "uniform", "popularity"),
    [
        (5, (332_730, 46_420, 14_079), 0.707, 0.490),
        (6, (220_472, 25_411, 11_896), 0.687, 0.483),
        (7, (145_835, 14_323, 9_535), 0.667, 0.474),
    ],
)
def test_microlens(
    microlens: pl.LazyFrame,
    min_user_interactions: int,
    sizes: tuple[int, int, int],
    uniform: float,
    popularity: float,
) -> None:
    interactions, counts = prepare_interactions(
        microlens, min_user_interactions=min_user_interactions
    )
    assert (counts["interactions"], counts["users"], counts["items"]) == sizes
    found = popularity_auc(interactions, split_users(interactions))
    expected = {"uniform": uniform, "popularity": popularity}
    assert found == pytest.approx(expected, abs=0.01)


def test_the_released_protocol_inflates_popularity(microlens: pl.LazyFrame) -> None:
    interactions, _ = prepare_interactions(microlens, min_user_interactions=6)
    rewritten = released_code_interactions(interactions)
    found = [
        popularity_auc(rewritten, released_code_split(rewritten, seed=seed))["uniform"]
        for seed in (42, 43, 44, 45)
    ]
    assert sum(found) / 4 == pytest.approx(0.760, abs=0.01)


def test_movielens(movielens: pl.LazyFrame) -> None:
    """Compare means over all users; one fold of 395 users has a standard deviation of 0.009."""
    interactions, counts = prepare_interactions(movielens)
    assert counts["users"] == 1975
    found = popularity_auc(interactions, split_users(interactions))
    assert found == pytest.approx({"uniform": 0.800, "popularity": 0.506}, abs=0.01)
