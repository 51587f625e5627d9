"""Samples of users and items on which an estimate runs the code of the stages."""

from __future__ import annotations

import polars as pl

from mllm_msr.data.hashing import hash_ids


def sample_ids(frame: pl.DataFrame, column: str, size: int) -> pl.DataFrame:
    """Return all rows of `size` users or items, selected by a hash of their ids.

    Args:
        frame: Any rows.
        column: Column of the ids.
        size: Number of ids.
    """
    ids = frame[column].unique()
    hashes = pl.Series("hash", hash_ids(ids, 0, purpose="plan"))
    selected = pl.DataFrame({column: ids, "hash": hashes}).sort("hash", column).head(size)
    return frame.join(selected, on=column, how="semi", maintain_order="left")
