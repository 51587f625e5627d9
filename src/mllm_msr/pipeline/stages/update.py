"""Stage "update": add new interactions to a finished run.

Only blocks with new interactions are inferred again, with one prompt each; the model is not
retrained.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mllm_msr import tables
from mllm_msr.errors import DataError

_COLUMNS = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}


def read_new_interactions(file: Path) -> pl.DataFrame:
    """Read a CSV or Parquet file with `user_id`, `item_id`, `timestamp` (integer milliseconds).

    Returns:
        These columns without duplicate rows, sorted by time.

    Raises:
        DataError: The file cannot be read or has empty cells.
    """
    try:
        frame = pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file)
        rows = frame.select(pl.col(name).cast(kind) for name, kind in _COLUMNS.items())
    except (OSError, pl.exceptions.PolarsError) as cause:
        raise DataError(
            f"{file} cannot be read: {str(cause).splitlines()[0]}. Provide a CSV or Parquet file "
            "with the columns user_id, item_id and timestamp (integer milliseconds)."
        ) from cause
    if n_empty := sum(rows.null_count().row(0)):
        raise DataError(f"{file} has {n_empty} empty cells. Fill them or remove their rows.")
    return rows.unique(maintain_order=True).sort("timestamp", maintain_order=True)


def append(known: pl.DataFrame, new: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Append new interactions to the histories of their users.

    Args:
        known: `tables.INTERACTIONS` with all earlier updates applied.
        new: Rows of `read_new_interactions` that `known` does not contain.
        items: `tables.ITEMS`.

    Returns:
        `tables.INTERACTIONS` with the full histories of the users with new interactions.

    Raises:
        DataError: An item is unknown, or an interaction is older than its user's history.
    """
    unknown = new.join(items, on="item_id", how="anti")["item_id"].unique().sort()
    if len(unknown):
        raise DataError(
            f"{len(unknown)} items are not in this run, for example {unknown[0]!r}. Leave them "
            "out, or start a new run that includes them."
        )
    latest = known.group_by("user_id").agg(latest=pl.col("timestamp").max())
    late = new.join(latest, on="user_id").filter(pl.col("timestamp") < pl.col("latest"))
    if late.height:
        raise DataError(
            f"{late.height} interactions are older than the history of their user, for example of "
            f"user {late['user_id'][0]!r}. Leave them out, or start a new run that includes them."
        )
    users = new.select("user_id").unique()
    both = pl.concat(
        [
            known.join(users, on="user_id", how="semi").sort("user_id", "position"),
            new.with_columns(position=pl.lit(2**31 - 1, dtype=pl.Int32)),
        ],
        how="diagonal",
    ).select(*tables.INTERACTIONS)
    ordered = both.sort("user_id", "position", maintain_order=True)
    return ordered.with_columns(position=pl.int_range(pl.len(), dtype=pl.Int32).over("user_id"))
