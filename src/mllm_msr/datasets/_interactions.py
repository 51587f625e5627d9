"""Reading of a source's interactions: the three columns of `interfaces.RawData`, with checks.

All values are checked here in one pass over the table, so that an error names the source file and
column and does not appear only in a later stage.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, get_args

import polars as pl

from mllm_msr.data.reading.reader import read_table
from mllm_msr.data.reading.records import Column, ReadOptions, TableRead
from mllm_msr.data.times import (
    END_OF_1970_MS,
    FIRST_LIKELY_MS,
    PARSED_TIME,
    UNIT_NAMES,
    TimeUnit,
    fix_for,
    format_problem,
    from_milliseconds,
    parse_times,
    settings_for,
    to_datetime,
)
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.types import SourceFile

logger = logging.getLogger(__name__)

_CONTENT: Final = "interactions"


@dataclass(frozen=True, slots=True)
class InteractionFormat:
    """Columns and units of a source's interactions.

    Attributes:
        user: Column of the user id.
        item: Column of the item id.
        time: Column of the time, `None` to use the order of the rows.
        unit: Unit of the time column; "iso" for dates as text, in UTC if they have no offset.
            Ignored for columns of a date type.
        time_format: Format of dates as text, which replaces `unit`.
        rating: Column of the rating, `None` if ratings are neither checked nor filtered.
        min_rating: Rows with a lower rating are removed.
        has_settings: Whether users can change these values with the settings `data.*`.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = "timestamp"
    unit: TimeUnit = "ms"
    time_format: str | None = None
    rating: str | None = None
    min_rating: float = 0.0
    has_settings: bool = False

    @property
    def is_rank(self) -> bool:
        """Whether the time column only defines an order."""
        return self.unit == "rank" and self.time_format is None

    @property
    def time_setting(self) -> str:
        """The setting that reads the time column, with its value."""
        if self.time_format is not None:
            return f"data.time_format={self.time_format!r}"
        return f"data.time_unit={self.unit}"


@dataclass(frozen=True, slots=True)
class Interactions:
    """Interactions that were read.

    Attributes:
        frame: `interfaces.RawData.interactions`. Rows of equal milliseconds are in the order of
            their exact times.
        source: How the file was read.
    """

    frame: pl.LazyFrame
    source: SourceFile


def read_interactions(
    source: Path | Any,
    form: InteractionFormat,
    *,
    options: ReadOptions | None = None,
    names: list[str] | None = None,
    quoted: bool = True,
) -> Interactions:
    """Read and check interactions.

    Args:
        source: Path of a table, or a data frame.
        form: Its columns and units.
        options: How to read a file.
        names: Names of the columns of a file without a header.
        quoted: Whether double quotes enclose values of a text file.

    Raises:
        SettingsError: The unit or the format is not supported.
        DataError: The file cannot be read, a column is missing, or a value is missing or invalid.
    """
    _check_settings(form)
    options = options or ReadOptions()
    columns = {
        "user_id": Column(form.user, "id", setting=_setting(form, "data.user_column")),
        "item_id": Column(form.item, "id", setting=_setting(form, "data.item_column")),
    }
    aggregates = {"n_rows": pl.len()}
    dtypes: list[pl.DataType] = []
    if form.time is not None:
        columns["time"] = _time_column(form, form.time, dtypes)
        milliseconds = pl.col("time").struct.field("milliseconds")
        aggregates |= {
            "first": milliseconds.min(),
            "last": milliseconds.max(),
            "n_in_1970": (milliseconds < END_OF_1970_MS).sum(),
            "is_reduced": pl.col("time").struct.field("is_reduced").any(),
        }
    if form.rating is not None:
        columns["rating"] = Column(
            form.rating, "number", setting=_setting(form, "data.rating_column")
        )
        aggregates["n_low"] = (pl.col("rating") < form.min_rating).sum()

    table = read_table(
        source, columns, options=options, content=_CONTENT, aggregates=aggregates, names=names,
        quoted=quoted,
    )  # fmt: skip
    if not table.aggregates["n_rows"]:
        raise DataError(f"{_name(table)} contains no interactions. Check that it is complete.")
    is_date = bool(dtypes) and dtypes[-1].is_temporal()
    return _to_interactions(table, form, options, is_date=is_date)


def _check_settings(form: InteractionFormat) -> None:
    """Raise `SettingsError` if two columns are one, or the unit or format is not supported."""
    if form.user == form.item and form.has_settings:
        problem = f"data.user_column and data.item_column are both {form.user!r}. Change one."
        raise SettingsError([problem])
    if form.unit not in get_args(TimeUnit):
        known = ", ".join(get_args(TimeUnit))
        problem = (
            f"data.time_unit is {form.unit!r}. Choose one of {known}, or set data.time_format to "
            "the format of the dates, for example data.time_format='%d/%m/%Y'."
        )
        raise SettingsError([problem])
    if form.time_format is not None and (reason := format_problem(form.time_format)):
        problem = f"data.time_format is {form.time_format!r}. {reason}"
        raise SettingsError([problem])


def _setting(form: InteractionFormat, name: str) -> str | None:
    return name if form.has_settings else None


def _name(table: TableRead) -> str:
    path = table.description.path
    return f"The table of {_CONTENT}" if path is None else Path(path).name


def _time_column(form: InteractionFormat, column: str, dtypes: list[pl.DataType]) -> Column:
    """Return the column of times, whose values become structs of type `PARSED_TIME`.

    Args:
        form: Units of the times.
        column: Name of the column.
        dtypes: Receives the type of the column in the file.
    """

    def convert(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
        dtypes.append(dtype)
        if dtype in {pl.Float32(), pl.Float16()} and not form.is_rank:
            raise DataError(
                f"The column {column} has the type {dtype}, which rounds times to minutes or "
                "more. Export it as whole numbers, Float64 or dates."
            )
        return value.map_batches(
            functools.partial(parse_times, unit=form.unit, time_format=form.time_format),
            return_dtype=PARSED_TIME,
            is_elementwise=True,
        )

    if form.time_format is not None:
        expected = f"a date in the format {form.time_format!r} between 1970 and 2200"
    elif form.unit == "iso":
        expected = "an ISO 8601 date between 1970 and 2200"
    elif form.unit == "rank":
        expected = "a number of at most 64 bits"
    else:
        expected = f"a time between 1970 and 2200 in {UNIT_NAMES[form.unit]}"
    return Column(
        column,
        "value",
        setting=_setting(form, "data.time_column"),
        convert=convert,
        expected=lambda value: (
            expected if isinstance(value, str | int | float) else "a date between 1970 and 2200"
        ),
        fix=lambda value: _time_fix(value, form),
    )


def _time_fix(value: object, form: InteractionFormat) -> str:
    """Return how to read a value that is not a time in the expected unit or format."""
    if not isinstance(value, str | int | float):
        return ""
    settings = [setting for setting in settings_for(value) if setting != form.time_setting][:2]
    if settings:
        return _set(settings, form)
    if isinstance(value, str) and (fix := fix_for(value)):
        return fix
    is_number = re.fullmatch(r"[+-]?\d+\.?\d*", str(value).strip()) is not None
    if form.has_settings and not form.is_rank and not is_number:
        return (
            f"The times are read from data.time_column={form.time} with {form.time_setting}. Dates "
            "that are not ISO 8601 need data.time_format, for example data.time_format='%d/%m/%Y'."
        )
    return ""


def _set(settings: list[str], form: InteractionFormat) -> str:
    """Return the sentence that tells users to set one of the settings."""
    if form.has_settings:
        return f"Set {' or '.join(settings)}."
    return f"Convert the times; dataset=files reads them with {' or '.join(settings)}."


def _to_interactions(
    table: TableRead, form: InteractionFormat, options: ReadOptions, *, is_date: bool
) -> Interactions:
    """Check the range of the times and return the three columns."""
    found, frame, source = table.aggregates, table.frame, table.description
    dropped = dict(source.dropped)
    if form.time is None:
        timestamp = pl.col("_rank").cast(pl.Int64)
        frame = frame.with_row_index("_rank")
    else:
        timestamp = pl.col("time").struct.field("milliseconds")
        source = dataclasses.replace(
            source,
            time_unit="date column" if is_date else form.time_format or form.unit,
            columns={
                "timestamp" if name == "time" else name: column
                for name, column in source.columns.items()
            },
        )
        if not form.is_rank:
            _warn_of_future(table, form)
        if not form.is_rank and _has_mixed_times(table, form, options, is_date=is_date):
            dropped["time in 1970"] = found["n_in_1970"]
            frame = frame.filter(timestamp >= END_OF_1970_MS)
        if found["is_reduced"]:
            frame = frame.sort(pl.col("time").struct.field("exact"), maintain_order=True)
    if form.rating is not None:
        frame = frame.filter(pl.col("rating") >= form.min_rating)
        if found["n_low"]:
            dropped["rating below data.min_rating"] = found["n_low"]
    return Interactions(
        frame.select("user_id", "item_id", timestamp=timestamp),
        dataclasses.replace(source, dropped=dropped),
    )


def _warn_of_future(table: TableRead, form: InteractionFormat) -> None:
    """Log a warning if a time lies in the future, beyond any time zone."""
    last = to_datetime(table.aggregates["last"])
    if last > datetime.now(UTC) + timedelta(days=1):
        logger.warning(
            "The latest time in the column %s of %s lies in the future: %s UTC.",
            form.time,
            _name(table),
            f"{last:%Y-%m-%d %H:%M}",
        )


def _has_mixed_times(
    table: TableRead, form: InteractionFormat, options: ReadOptions, *, is_date: bool
) -> bool:
    """Check times long ago: they are usually numbers of another unit.

    Returns:
        Whether some times, which are to be dropped, are in 1970, unlike the others.

    Raises:
        DataError: Another unit or format fits all times, or only some of the times are in 1970.
    """
    found = table.aggregates
    is_old = found["last"] < FIRST_LIKELY_MS
    where = f"in the column {form.time} of {_name(table)}"
    if not is_old and not found["n_in_1970"]:
        return False
    reading = form.time_setting if form.has_settings else UNIT_NAMES.get(form.unit, "dates")
    is_number = not is_date and form.time_format is None and form.unit in UNIT_NAMES
    low, high = (
        from_milliseconds(found[name], form.unit) if is_number else to_datetime(found[name]).date()
        for name in ("first", "last")
    )
    if not is_old:
        problem = (
            f"{found['n_in_1970']} of {found['n_rows']} times {where}, read as {reading}, lie in "
            f"1970, for example {low}; the latest is {to_datetime(found['last']):%Y-%m-%d}."
        )
        if options.on_bad_rows == "error":
            how = ", or set data.on_bad_rows=drop to leave them out" * options.has_settings
            raise DataError(
                f"{problem} The column may mix units, or have a number for missing times. Correct "
                f"these rows{how}."
            )
        logger.warning("%s The rows in 1970 are left out.", problem)
        return True
    when = "in 1970" if found["last"] < END_OF_1970_MS else "before 1991"
    problem = f"All times {where}, read as {reading}, lie {when}, for example {low}."
    settings = [s for s in settings_for(low) if s in settings_for(high)] if is_number else []
    if settings:
        raise DataError(f"{problem} {_set(settings, form)}")
    if form.has_settings:
        fix = " If the numbers only define an order, set data.time_unit=rank." * is_number
        logger.warning("%s%s", problem, fix)
    return False
