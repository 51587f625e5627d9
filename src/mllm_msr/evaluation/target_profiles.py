"""Profiles of the test targets: length of the user's history and popularity of the items.

They do not depend on scores. The profiles define the slices of users and targets, and the item
popularity defines the exposure metrics. Popularity counts the interactions that the recommenders of
a fold can learn from: all except the hidden targets.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from mllm_msr.tables import TARGET_PROFILES, conform


def item_popularity(visible: pl.DataFrame, item_ids: pl.Series, *, fold: int) -> pl.DataFrame:
    """Count the interactions of each item of the catalog.

    Args:
        visible: `tables.INTERACTIONS` of one fold without any hidden target.
        item_ids: Distinct ids of the catalog, including items without interactions.
        fold: The fold.

    Returns:
        One row per item with `fold`, `item_id`, `n` (interactions), `percentile` (share of the
        catalog with fewer interactions, ties half, in (0, 1)) and `bits` (self-information
        -log2(n / n_users); an item without interactions counts as having one).
    """
    counts = visible.group_by("item_id").agg(n=pl.len().cast(pl.Int64))
    items = pl.DataFrame({"item_id": item_ids}).join(counts, on="item_id", how="left")
    items = items.with_columns(pl.col("n").fill_null(0))
    n_users = max(1, visible["user_id"].n_unique())
    bits = np.log2(n_users) - np.log2(np.maximum(items["n"].to_numpy(), 1))
    return items.select(
        pl.lit(fold, dtype=pl.Int32).alias("fold"),
        "item_id",
        "n",
        percentile=(pl.col("n").rank("average") - 0.5) / pl.len(),
        bits=pl.Series(bits),
    )


def build_target_profiles(
    targets: pl.DataFrame, interactions: pl.DataFrame, *, popularity: pl.DataFrame
) -> pl.DataFrame:
    """Describe the target and the history of each test user of each fold.

    Args:
        targets: Rows of `tables.CANDIDATES` with label 1, one per fold and user.
        interactions: `tables.INTERACTIONS`; only rows before the target are used.
        popularity: `item_popularity` of every fold.

    Returns:
        `tables.TARGET_PROFILES`, sorted by fold and user.
    """
    before = targets.select("fold", "user_id", before="position")
    histories = (
        interactions.select("user_id", "item_id", "position")
        .join(before, on="user_id")
        .filter(pl.col("position") < pl.col("before"))
        .join(popularity, on=["fold", "item_id"], how="left")
        .group_by("fold", "user_id")
        .agg(n_history=pl.len(), history_percentile=pl.col("percentile").sort().mean())
    )
    profiles = (
        targets.select("fold", "user_id", "item_id")
        .join(popularity, on=["fold", "item_id"], how="left")
        .join(histories, on=["fold", "user_id"], how="left")
        .with_columns(pl.col("n_history").fill_null(0), n_target=pl.col("n").fill_null(0))
    )
    return conform(profiles, TARGET_PROFILES, name="target_profiles").sort("fold", "user_id")
