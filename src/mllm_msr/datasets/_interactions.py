"""Conversion of a source's interactions to the three columns of `interfaces.RawData`, with checks.

All values are checked here in one pass over the lazy table, so that an error names the source file
and column and does not appear only in a later stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

import polars as pl

from mllm_msr.datasets._readers import require_columns, wrap_table_errors
from mllm_msr.errors import DataError, SettingsError

TimeUnit = Literal["s", "ms", "us", "ns", "iso", "rank"]

_TO_MILLISECONDS: Final = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6, "rank": 1.0}


def to_interactions(
    table: pl.LazyFrame,
    path: Path,
    *,
    user: str,
    item: str,
    time: str | None,
    unit: TimeUnit,
    rating: str | None = None,
    min_rating: float = 0.0,
) -> pl.LazyFrame:
    """Convert and check the interactions of a table.

    Args:
        table: Rows of the source.
        path: File that they come from, for error messages.
        user: Column of the user id.
        item: Column of the item id.
        time: Column of the time, `None` to use the row order.
        unit: Unit of the time column; "iso" for dates as text, in UTC if they have no time zone.
            Ignored for columns of a date type.
        rating: Column of the rating, `None` if ratings are neither checked nor filtered.
        min_rating: Rows with a lower rating are removed.

    Returns:
        Columns `user_id`, `item_id`, `timestamp` (milliseconds, or rank), lazy.

    Raises:
        SettingsError: The unit is unknown.
        DataError: A column is missing, or a value is missing or not a finite number.
    """
    if unit not in get_args(TimeUnit):
        known = ", ".join(get_args(TimeUnit))
        raise SettingsError([f"data.time_unit is {unit!r}. Choose one of {known}."])
    require_columns(table, [name for name in (user, item, time, rating) if name is not None], path)
    if time is None:
        table = table.with_row_index("_rank")
    columns = {
        "user_id": pl.col(user).cast(pl.String),
        "item_id": pl.col(item).cast(pl.String),
        "timestamp": _milliseconds(table, time or "_rank", unit=unit if time else "rank"),
    }
    if rating is not None:
        number = pl.col(rating).cast(pl.Float64, strict=False)
        columns["rating"] = pl.when(number.is_finite()).then(number)
    converted = table.select(**columns)
    sources = dict(zip(columns, (user, item, time, rating), strict=False))
    _check_values(converted, table, path, sources=sources)
    if rating is not None:
        converted = converted.filter(pl.col("rating") >= min_rating).drop("rating")
    return converted


def _milliseconds(table: pl.LazyFrame, column: str, *, unit: TimeUnit) -> pl.Expr:
    """Return an expression for integer milliseconds, null where the value is not a time."""
    value = pl.col(column)
    if table.collect_schema()[column].is_temporal():
        return value.cast(pl.Datetime("ms")).dt.timestamp("ms")
    if unit == "iso":
        return value.str.to_datetime(strict=False, time_unit="ms", time_zone="UTC").dt.timestamp(
            "ms"
        )
    number = value.cast(pl.Float64, strict=False) * _TO_MILLISECONDS[unit]
    return pl.when(number.is_finite()).then(number.round()).cast(pl.Int64)


def _check_values(
    converted: pl.LazyFrame, table: pl.LazyFrame, path: Path, *, sources: dict[str, str | None]
) -> None:
    """Raise `DataError` for the first column with a missing or invalid value.

    Args:
        converted: The converted columns, null where a value is missing or invalid.
        table: The source's rows, for the original values.
        path: File that they come from.
        sources: Source column of each converted column, `None` for the row order.
    """
    with wrap_table_errors(path):
        nulls = converted.select(pl.all().null_count(), n_rows=pl.len()).collect(engine="streaming")
    n_rows = nulls["n_rows"][0]
    if not n_rows:
        raise DataError(
            f"{path.name} contains no interactions. Set data.path to the complete dataset."
        )
    for column, source in sources.items():
        n_invalid = nulls[column][0]
        if not n_invalid or source is None:
            continue
        invalid = converted.select(invalid=pl.col(column).is_null())
        value, row = (
            pl.concat([table.select(value=pl.col(source)), invalid], how="horizontal")
            .with_row_index("row", offset=1)
            .filter("invalid")
            .select("value", "row")
            .first()
            .collect()
            .row(0)
        )
        expected = {"timestamp": "a time", "rating": "a finite number"}.get(column, "an id")
        raise DataError(
            f"The column {source} in {path.name} has invalid values in {n_invalid} of {n_rows} "
            f"rows. The first is {value!r} in data row {row}; it is not {expected}. Remove or "
            "correct these rows"
            f"{', or check data.time_unit' if column == 'timestamp' else ''}."
        )
