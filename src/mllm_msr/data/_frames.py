"""Frames of callers: the interactions that Python code passes instead of a dataset's files."""

from __future__ import annotations

import math
from typing import Any, Final, Protocol, runtime_checkable

import polars as pl

from mllm_msr.errors import DataError, UsageError

_COLUMNS: Final = ("user_id", "item_id", "timestamp")


@runtime_checkable
class ArrowTable(Protocol):
    """Table of another library that Polars can read, such as a pandas frame."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Return the table as a stream of Arrow data."""


def collect_interactions(raw: pl.LazyFrame | pl.DataFrame | ArrowTable) -> pl.DataFrame:
    """Read interactions with ids as categories, and check that no value is missing.

    Args:
        raw: Columns `user_id`, `item_id`, and `timestamp` (whole numbers, or dates, which become
            milliseconds since 1970).

    Returns:
        These columns, ids as categories and timestamps as integers, rows in their order, or in
        chronological order if the timestamps are dates.

    Raises:
        UsageError: `raw` is not a frame.
        DataError: A column is missing, or a value is missing or has the wrong type.
    """
    rows = _as_lazy(raw)
    try:
        schema = rows.collect_schema()
        time = pl.col("timestamp")
        if schema.get("timestamp") in (pl.Date, pl.Datetime):
            # Reducing dates to milliseconds must not change their order.
            rows = rows.sort("timestamp", maintain_order=True)
            time = time.cast(pl.Datetime("ms")).dt.timestamp("ms")
        elif schema.get("timestamp") in (pl.Float32, pl.Float64):
            # A cast would drop fractions silently.
            time = pl.when(time == time.floor()).then(time).otherwise(math.nan)
        frame = rows.select(
            pl.col("user_id", "item_id").cast(pl.String).cast(pl.Categorical), time.cast(pl.Int64)
        ).collect(engine="streaming")
    except pl.exceptions.PolarsError as cause:
        raise DataError(
            "Cannot read the columns user_id, item_id and timestamp (an integer) of the "
            f"interactions: {str(cause).splitlines()[0].rstrip('.')}. "
            "Fix the rows or columns of the source."
        ) from cause
    for column in _COLUMNS:
        n_missing = frame[column].null_count()
        if n_missing:
            row = int(frame[column].is_null().arg_max() or 0)
            raise DataError(
                f"{n_missing} of {frame.height} interactions have no {column}; the first is in "
                f"row {row + 1}. Remove these rows or fill in the value."
            )
    return frame


def _as_lazy(raw: object) -> pl.LazyFrame:
    """Return a Polars frame or a table of another library as a lazy frame.

    Raises:
        UsageError: It is neither.
    """
    if isinstance(raw, pl.LazyFrame):
        return raw
    if isinstance(raw, ArrowTable):
        return pl.DataFrame(raw).lazy()
    raise UsageError(
        f"The interactions are of type {type(raw).__name__}. Pass a Polars or pandas frame with "
        "the columns user_id, item_id and timestamp."
    )
