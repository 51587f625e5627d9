"""A source's interactions -> the three columns of `interfaces.RawData`, checked.

Everything is checked in one pass over the lazy table, so that a fault is reported by the data
set that knows the file, not by the stage that reads it later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

import polars as pl

from mllm_msr.datasets._readers import need_columns, reading
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
    """Checked interactions of a table.

    Args:
        table: The source's rows.
        path: The file that they come from.
        user: Column of the user's id.
        item: Column of the item's id.
        time: Column of the time, `None` to take the order of the rows.
        unit: What its numbers count; "iso" for dates as text, in UTC where they name no zone.
            Date columns need none.
        rating: Column of the rating, where ratings are to be checked and filtered.
        min_rating: Rows with a lower rating are left out.

    Returns:
        Columns `user_id`, `item_id`, `timestamp` (milliseconds, or rank), lazy.

    Raises:
        SettingsError: The unit is unknown.
        DataError: A column is missing, or a value is missing or not a finite number.
    """
    if unit not in get_args(TimeUnit):
        known = ", ".join(get_args(TimeUnit))
        raise SettingsError([f"data.time_unit must be one of {known}, it is {unit!r}"])
    need_columns(table, [name for name in (user, item, time, rating) if name is not None], path)
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
    wanted = table.select(**columns)
    _check(
        wanted, table, path, sources=dict(zip(columns, (user, item, time, rating), strict=False))
    )
    if rating is not None:
        wanted = wanted.filter(pl.col("rating") >= min_rating).drop("rating")
    return wanted


def _milliseconds(table: pl.LazyFrame, column: str, *, unit: TimeUnit) -> pl.Expr:
    """Integer milliseconds, null where the value is no time."""
    value = pl.col(column)
    if table.collect_schema()[column].is_temporal():
        return value.cast(pl.Datetime("ms")).dt.timestamp("ms")
    if unit == "iso":
        return value.str.to_datetime(strict=False, time_unit="ms", time_zone="UTC").dt.timestamp(
            "ms"
        )
    number = value.cast(pl.Float64, strict=False) * _TO_MILLISECONDS[unit]
    return pl.when(number.is_finite()).then(number.round()).cast(pl.Int64)


def _check(
    wanted: pl.LazyFrame, table: pl.LazyFrame, path: Path, *, sources: dict[str, str | None]
) -> None:
    """Raise `DataError` for the first column with a missing or unusable value."""
    with reading(path):
        nulls = wanted.select(pl.all().null_count(), n_rows=pl.len()).collect(engine="streaming")
    if not nulls["n_rows"][0]:
        raise DataError(
            needed=f"interactions in {path.name}",
            received="a table without rows",
            remedy="set data.path to the complete data set",
        )
    for column, source in sources.items():
        n_bad = nulls[column][0]
        if not n_bad or source is None:
            continue
        bad = wanted.select(bad=pl.col(column).is_null())
        value, row = (
            pl.concat([table.select(value=pl.col(source)), bad], how="horizontal")
            .with_row_index("row", offset=1)
            .filter("bad")
            .select("value", "row")
            .first()
            .collect()
            .row(0)
        )
        kind = "an id" if column in {"user_id", "item_id"} else "a finite number or a date"
        raise DataError(
            needed=f"{kind} in every row of the column {source} in {path.name}",
            received=f"{n_bad} without it, the first is {value!r} in data row {row}",
            remedy="remove or complete these rows, or check data.time_unit"
            if column == "timestamp"
            else "remove or complete these rows",
        )
