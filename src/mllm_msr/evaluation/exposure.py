"""Exposure metrics of the recommended lists: coverage, novelty and popularity bias @k.

Part of the third step of the evaluation, computed from the top k of the full-catalog ranking. The
paper does not report these metrics. They distinguish a personalized recommender from one that
recommends the same popular items to everyone.

- `coverage@k`: share of the catalog in the top k of at least one user. It grows with the number of
  users, so only models with the same users are comparable.
- `novelty@k`: mean self-information of the items in a user's top k, in bits
  (`target_profiles.item_popularity`).
- `popularity@k`: mean popularity percentile of these items, in (0, 1).
- `bias@k`: `popularity@k` minus the mean percentile of the user's history; above 0 if the list is
  more popular than the history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from mllm_msr.errors import DataError
from mllm_msr.evaluation.aggregation import (
    Cells,
    mean_of_runs,
    means_with_intervals,
    runs_by_model,
)
from mllm_msr.evaluation.ranking import FULL


def exposure_names(ks: Sequence[int]) -> list[str]:
    """Return the names of the exposure metrics that have a value per user.

    >>> exposure_names([5])
    ['novelty@5', 'popularity@5', 'bias@5']
    """
    return [f"{name}@{k}" for name in ("novelty", "popularity", "bias") for k in ks]


def exposure_per_user(
    top: pl.DataFrame, *, popularity: pl.DataFrame, profiles: pl.DataFrame, ks: Sequence[int]
) -> pl.DataFrame:
    """Compute novelty, popularity and bias of each user's list.

    Args:
        top: `tables.TOP`, at least `max(ks)` deep if the catalog is large enough.
        popularity: `target_profiles.item_popularity` of every fold.
        profiles: `tables.TARGET_PROFILES`.
        ks: Cut-offs.

    Returns:
        One row per fold and user, sorted by these, with `negatives` ("full") and a column per
        name in `exposure_names(ks)`. `bias@k` is NaN for users without a history.

    Raises:
        DataError: A list contains an item that is not in the catalog.
    """
    rows = top.join(popularity, on=["fold", "item_id"], how="left").sort("fold", "user_id", "rank")
    unknown = rows.filter(pl.col("percentile").is_null())
    if unknown.height:
        raise DataError(
            f"{unknown.height} rows of the recommended lists have an item outside the catalog, "
            f"such as {unknown['item_id'][0]!r}. Rank only the items of the run."
        )
    first = {k: pl.col("rank") <= k for k in ks}
    return (
        rows.group_by("fold", "user_id", maintain_order=True)
        .agg(
            *(pl.col("bits").filter(first[k]).mean().alias(f"novelty@{k}") for k in ks),
            *(pl.col("percentile").filter(first[k]).mean().alias(f"popularity@{k}") for k in ks),
        )
        .join(
            profiles.select("fold", "user_id", "history_percentile"),
            on=["fold", "user_id"],
            how="left",
        )
        .with_columns(
            (pl.col(f"popularity@{k}") - pl.col("history_percentile"))
            .fill_null(float("nan"))
            .alias(f"bias@{k}")
            for k in ks
        )
        .select("fold", pl.lit(FULL).alias("negatives"), "user_id", *exposure_names(ks))
        .sort("fold", "user_id")
    )


def exposure_by_run(
    top: Mapping[str, pl.DataFrame],
    *,
    popularity: pl.DataFrame,
    profiles: pl.DataFrame,
    ks: Sequence[int],
) -> dict[str, pl.DataFrame]:
    """Compute `exposure_per_user` of each run that ranked the full catalog.

    Args:
        top: `tables.TOP` by run; runs without rows are left out.
        popularity: `target_profiles.item_popularity` of every fold.
        profiles: `tables.TARGET_PROFILES`.
        ks: Cut-offs.
    """
    return {
        run: exposure_per_user(frame, popularity=popularity, profiles=profiles, ks=ks)
        for run, frame in top.items()
        if frame.height
    }


def coverage(top: pl.DataFrame, *, n_items: int, ks: Sequence[int]) -> dict[str, float]:
    """Compute the share of the catalog in the top k of at least one user, averaged over folds.

    Args:
        top: `tables.TOP` with at least one row.
        n_items: Size of the catalog.
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


def exposure_means(
    per_user: Mapping[str, pl.DataFrame],
    top: Mapping[str, pl.DataFrame],
    *,
    n_items: int,
    ks: Sequence[int],
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> dict[str, Cells]:
    """Compute the coverage and the mean exposure metrics of each model.

    Args:
        per_user: `exposure_per_user` by run.
        top: `tables.TOP` of the same runs.
        n_items: Size of the catalog.
        ks: Cut-offs.
        seed: Seed of the bootstrap.
        n_resamples: Number of resamples of each interval.
        level: Level of the intervals, in (0, 1).

    Returns:
        `{model: {metric: {mean, low, high, n}}}`; coverage has only a mean. `n` is the number of
        users with a value; metrics without one, such as the bias without histories, are left out.
    """
    runs = runs_by_model(list(per_user))
    models = {
        model: mean_of_runs([per_user[run] for run in names]) for model, names in runs.items()
    }
    cells = means_with_intervals(
        models, exposure_names(ks), seed=seed, n_resamples=n_resamples, level=level
    )
    found: dict[str, Cells] = {}
    for model, names in runs.items():
        values = [coverage(top[run], n_items=n_items, ks=ks) for run in names]
        found[model] = {
            name: {"mean": float(np.mean([value[name] for value in values]))} for name in values[0]
        } | cells.get(model, {}).get(FULL, {})
    return found
