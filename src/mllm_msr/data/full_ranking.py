"""Candidates that are the whole catalogue: for full ranking, in blocks of users.

Sampled negatives flatter; ranking against everything a user has not met does not. A table of
users times items would not fit, so it is yielded in blocks that are scored and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from mllm_msr.data._hashing import hash_ids
from mllm_msr.tables import CANDIDATES, conform

FULL = "full"


def full_candidates(
    targets: pl.DataFrame,
    interactions: pl.DataFrame,
    item_ids: pl.Series,
    *,
    max_rows: int = 1_000_000,
) -> Iterator[pl.DataFrame]:
    """Every item of the catalogue as a candidate for every target's user.

    Args:
        targets: Rows of `tables.CANDIDATES` with label 1, one per fold and user.
        interactions: `tables.INTERACTIONS`; items at positions before the target are left out,
            unless the target is one of them.
        item_ids: The catalogue, distinct ids.
        max_rows: Rows per block, at least one user's.

    Yields:
        `tables.CANDIDATES` with negatives "full", all rows of a user in one block.
    """
    catalogue = pl.DataFrame({"item_id": item_ids})
    rows = conform(targets, CANDIDATES, name="targets").rename({"item_id": "target"})
    if rows.is_empty():
        return
    n_users = max(1, max_rows // max(1, catalogue.height))
    for block in rows.iter_slices(n_users):
        seen = (
            block.select("fold", "user_id", "target", before="position")
            .join(interactions.select("user_id", "item_id", "position"), on="user_id")
            .filter(
                (pl.col("position") < pl.col("before")) & (pl.col("item_id") != pl.col("target"))
            )
            .select("fold", "user_id", "item_id")
        )
        yield conform(
            block.join(catalogue, how="cross")
            .join(seen, on=["fold", "user_id", "item_id"], how="anti")
            .with_columns(
                negatives=pl.lit(FULL),
                label=(pl.col("item_id") == pl.col("target")).cast(pl.Int8),
            ),
            CANDIDATES,
            name="candidates",
        )


def sample_targets(candidates: pl.DataFrame, n_users: int, *, seed: int = 0) -> pl.DataFrame:
    """The targets of a sample of users, one row per fold and user.

    Args:
        candidates: `tables.CANDIDATES`.
        n_users: Users per fold at most; who they are depends on (seed, user_id) alone.
        seed: Seed of the sample.

    Returns:
        Rows with label 1, sorted by fold and user.
    """
    targets = candidates.filter(pl.col("label") == 1).unique(["fold", "user_id"], keep="any")
    hashes = pl.Series("hash", hash_ids(targets["user_id"], seed, purpose="full ranking"))
    ordered = targets.with_columns(hashes).sort("hash", "user_id")
    kept = ordered.filter(pl.int_range(pl.len()).over("fold") < n_users)
    return kept.sort("fold", "user_id").select(candidates.columns)
