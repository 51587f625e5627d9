"""What is known of test users and items before anything is scored: histories and popularity.

Input of the slices (which users, which targets) and of the exposure metrics (how popular is what
a model puts on top). Popularity is counted in what the recommenders of a fold could learn from:
all interactions but the hidden targets.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from mllm_msr.tables import CASES, conform


def item_popularity(visible: pl.DataFrame, item_ids: pl.Series, *, fold: int) -> pl.DataFrame:
    """How often each item of the catalogue was chosen.

    Args:
        visible: `tables.INTERACTIONS` of one fold without any hidden target.
        item_ids: The catalogue, distinct ids; the never chosen count as well.
        fold: The fold.

    Returns:
        One row per item with `fold`, `item_id`, `n` (interactions), `percentile` (share of the
        catalogue that was chosen less often, ties half, in (0, 1)) and `bits`, the
        self-information -log2(n / n_users); an item nobody chose counts as chosen once.
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


def build_cases(
    targets: pl.DataFrame, interactions: pl.DataFrame, *, popularity: pl.DataFrame
) -> pl.DataFrame:
    """Describe each test user of each fold.

    Args:
        targets: Rows of `tables.CANDIDATES` with label 1, one per fold and user.
        interactions: `tables.INTERACTIONS`; only rows before the target are read.
        popularity: `item_popularity` of every fold.

    Returns:
        `tables.CASES`, sorted by fold and user.
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
    cases = (
        targets.select("fold", "user_id", "item_id")
        .join(popularity, on=["fold", "item_id"], how="left")
        .join(histories, on=["fold", "user_id"], how="left")
        .with_columns(pl.col("n_history").fill_null(0), n_target=pl.col("n").fill_null(0))
    )
    return conform(cases, CASES, name="cases").sort("fold", "user_id")
