"""Frames of callers: the interactions that Python code passes instead of a dataset's files."""

from __future__ import annotations

from typing import Final

import polars as pl

from mllm_msr.data.reading.binary import open_frame
from mllm_msr.data.reading.records import Column, Kind
from mllm_msr.data.reading.rows import POLARS_ERRORS
from mllm_msr.data.reading.values import convert
from mllm_msr.errors import DataError, UsageError, first_line
from mllm_msr.tables import ArrowTable, Frame

_NAME: Final = "the interactions"
_KINDS: Final[dict[str, Kind]] = {"user_id": "id", "item_id": "id", "timestamp": "integer"}


def collect_interactions(raw: Frame) -> pl.DataFrame:
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
    try:
        rows, names = _as_lazy(raw)
        schema = rows.collect_schema()
        absent = [name for name in _KINDS if name not in schema]
        if absent:
            raise DataError(
                f"The interactions have no column {absent[0]}; their columns are "
                f"{', '.join(names or schema)}. Rename the columns."
            )
        columns = {
            name: convert(Column(name, kind), schema[name], file=_NAME, decimal_comma=False)
            for name, kind in _KINDS.items()
            if name != "timestamp" or schema[name] not in (pl.Date, pl.Datetime)
        }
        if "timestamp" not in columns:
            # Reducing dates to milliseconds must not change their order.
            rows = rows.sort("timestamp", maintain_order=True)
            columns["timestamp"] = pl.col("timestamp").cast(pl.Datetime("ms")).dt.timestamp("ms")
        frame = (
            rows.select(**columns)
            .select(pl.col("user_id", "item_id").cast(pl.Categorical), "timestamp")
            .collect(engine="streaming")
        )
    except POLARS_ERRORS as cause:
        raise DataError(
            "Cannot read the columns user_id, item_id and timestamp of the interactions: "
            f"{first_line(cause).rstrip('.')}. Fix the rows or columns of the source."
        ) from cause
    for name in _KINDS:
        n_invalid = frame[name].null_count()
        if n_invalid:
            row = int(frame[name].is_null().arg_max() or 0)
            value = rows.select(name).slice(row, 1).collect().item()
            expected = (
                "a whole number or a date" if name == "timestamp" else "text or a whole number"
            )
            raise DataError(
                f"{n_invalid} of {frame.height} interactions have no valid {name}, which is "
                f"{expected}; the first is {value!r} in row {row + 1}. Correct these rows."
            )
    return frame


def _as_lazy(raw: object) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    """Return a frame as a lazy one, and the names of its columns if it has more of them.

    Raises:
        UsageError: It is neither.
    """
    if isinstance(raw, pl.LazyFrame):
        return raw, ()
    if type(raw).__module__.startswith("pandas") and hasattr(raw, "columns"):
        table = open_frame(raw, _KINDS, content="interactions")
        return table.frame, table.columns
    if isinstance(raw, ArrowTable):
        return pl.DataFrame(raw).lazy(), ()
    raise UsageError(
        f"The interactions are of type {type(raw).__name__}. Pass a Polars or pandas frame with "
        "the columns user_id, item_id and timestamp."
    )
