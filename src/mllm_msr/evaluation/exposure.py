"""What a model shows beside whether it is right: coverage, novelty and popularity bias @k.

Read off the lists at the top of the full-catalogue ranking. The paper does not report these; they
tell a recommender that knows its users from one that serves everybody the same hits.

- `coverage@k`: share of the catalogue that stands in at least one user's first k. It grows with
  the number of users, so that only models ranked for the same users compare.
- `novelty@k`: mean self-information of a user's first k, in bits (`cases.item_popularity`).
- `popularity@k`: their mean popularity percentile, in (0, 1).
- `bias@k`: the same minus the mean percentile of the user's history: above 0 where the list is
  more mainstream than its reader.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mllm_msr.errors import DataError


def exposure_names(ks: Sequence[int]) -> list[str]:
    """Names of the metrics that have a value per user.

    >>> exposure_names([5])
    ['novelty@5', 'popularity@5', 'bias@5']
    """
    return [f"{name}@{k}" for name in ("novelty", "popularity", "bias") for k in ks]


def exposure_per_user(
    top: pl.DataFrame, *, popularity: pl.DataFrame, cases: pl.DataFrame, ks: Sequence[int]
) -> pl.DataFrame:
    """Novelty, popularity and bias of each user's list.

    Args:
        top: `tables.TOP`, at least `max(ks)` deep where the catalogue allows it.
        popularity: `cases.item_popularity` of every fold.
        cases: `tables.CASES`.
        ks: Cut-offs.

    Returns:
        One row per fold and user, sorted by these, with a column for each of
        `exposure_names(ks)`; `bias@k` is NaN for users without a history.

    Raises:
        DataError: A list holds an item that is not in the catalogue.
    """
    rows = top.join(popularity, on=["fold", "item_id"], how="left").sort("fold", "user_id", "rank")
    unknown = rows.filter(pl.col("percentile").is_null())
    if unknown.height:
        raise DataError(
            needed="lists of items of the catalogue",
            received=f"{unknown.height} rows of others, such as {unknown['item_id'][0]!r}",
            remedy="rank the items of the run and no others",
        )
    first = {k: pl.col("rank") <= k for k in ks}
    return (
        rows.group_by("fold", "user_id", maintain_order=True)
        .agg(
            *(pl.col("bits").filter(first[k]).mean().alias(f"novelty@{k}") for k in ks),
            *(pl.col("percentile").filter(first[k]).mean().alias(f"popularity@{k}") for k in ks),
        )
        .join(
            cases.select("fold", "user_id", "history_percentile"),
            on=["fold", "user_id"],
            how="left",
        )
        .with_columns(
            (pl.col(f"popularity@{k}") - pl.col("history_percentile"))
            .fill_null(float("nan"))
            .alias(f"bias@{k}")
            for k in ks
        )
        .select("fold", "user_id", *exposure_names(ks))
        .sort("fold", "user_id")
    )


def coverage(top: pl.DataFrame, *, n_items: int, ks: Sequence[int]) -> dict[str, float]:
    """Share of the catalogue in at least one user's first k, the mean over folds.

    Args:
        top: `tables.TOP` with at least one row.
        n_items: Size of the catalogue.
        ks: Cut-offs.

    Returns:
        `coverage@k` for each cut-off, in [0, 1].
    """
    folds = top.partition_by("fold")
    return {
        f"coverage@{k}": sum(
            fold.filter(pl.col("rank") <= k)["item_id"].n_unique() / n_items for fold in folds
        )
        / len(folds)
        for k in ks
    }
