"""Full ranking: candidate tables that hold the whole catalog instead of sampled negatives.

Metrics on sampled negatives overestimate the quality of a model; ranking all items that are new
to the user does not. A table of all users times all items does not fit into memory, so candidates
are generated in blocks of users. The stage `score` scores each block and keeps only the ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from mllm_msr.data.hashing import hash_ids
from mllm_msr.tables import CANDIDATES, conform

FULL = "full"


def full_candidates(
    targets: pl.DataFrame,
    interactions: pl.DataFrame,
    item_ids: pl.Series,
    *,
    max_rows: int = 1_000_000,
) -> Iterator[pl.DataFrame]:
    """Yield every item of the catalog as a candidate for every target's user.

    Args:
        targets: Rows of `tables.CANDIDATES` with label 1, one per fold and user.
        interactions: `tables.INTERACTIONS`. Items before the target's position are left out,
            except the target itself.
        item_ids: The catalog, distinct ids.
        max_rows: Maximum number of rows per block. A block holds at least one user, even if the
            catalog has more items.

    Yields:
        `tables.CANDIDATES` with negatives "full". All rows of a user are in one block.

    Raises:
        DataError: `targets` lacks a column.
    """
    catalog = pl.DataFrame({"item_id": item_ids})
    rows = conform(targets, CANDIDATES, name="targets").rename({"item_id": "target"})
    if rows.is_empty():
        return
    n_users = max(1, max_rows // max(1, catalog.height))
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
            block.join(catalog, how="cross")
            .join(seen, on=["fold", "user_id", "item_id"], how="anti")
            .with_columns(
                negatives=pl.lit(FULL),
                label=(pl.col("item_id") == pl.col("target")).cast(pl.Int8),
            ),
            CANDIDATES,
            name="candidates",
        )


def sample_targets(candidates: pl.DataFrame, n_users: int, *, seed: int = 0) -> pl.DataFrame:
    """Sample users and return their targets, one row per fold and user.

    Args:
        candidates: `tables.CANDIDATES`.
        n_users: Maximum number of users per fold. Which users are sampled depends only on
            (seed, user_id).
        seed: Seed of the sample.

    Returns:
        Rows with label 1, sorted by fold and user.
    """
    targets = candidates.filter(pl.col("label") == 1).unique(["fold", "user_id"], keep="any")
    hashes = pl.Series("hash", hash_ids(targets["user_id"], seed, purpose="full ranking"))
    ordered = targets.with_columns(hashes).sort("hash", "user_id")
    sample = ordered.filter(pl.int_range(pl.len()).over("fold") < n_users)
    return sample.sort("fold", "user_id").select(candidates.columns)
