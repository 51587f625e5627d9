"""Times of interactions: conversion to milliseconds since 1970, exact order, and plausibility.

All readers convert times here, so that every command accepts the same values. A number has no
visible unit, so a wrong unit is detected by its result: no interaction took place before 1970 or
after 2200.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final, Literal

import polars as pl

TimeUnit = Literal["s", "ms", "us", "ns", "iso", "excel", "rank"]
NumericUnit = Literal["s", "ms", "us", "ns", "excel"]

LAST_MS: Final = 7_258_118_400_000  # 2200-01-01
END_OF_1970_MS: Final = 31_536_000_000
# Range of times that another unit must give to be suggested: 1991 to 2100. Other clocks, such as
# the ticks of .NET, look like nanoseconds of earlier years.
FIRST_LIKELY_MS: Final = 662_688_000_000
_LAST_LIKELY_MS: Final = 4_102_444_800_000

UNIT_NAMES: Final = {
    "s": "seconds since 1970",
    "ms": "milliseconds since 1970",
    "us": "microseconds since 1970",
    "ns": "nanoseconds since 1970",
    "excel": "days as Excel counts them",
}
_PER_MILLISECOND: Final = {"us": 1000, "ns": 1_000_000}
_MILLISECONDS: Final = {"s": 1000, "ms": 1, "excel": 86_400_000}
_EXCEL_1970: Final = 25_569  # Excel's day number of 1970-01-01

# Exact for every 64-bit integer and for nine digits after the decimal point.
_EXACT: Final = pl.Decimal(38, 9)
_SCALE: Final = 10**9  # of the integers that represent such decimals
_ISO: Final = (
    r"^(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(?:(:\d\d)(?:[.,](\d{1,9})\d*)?)?"
    r"(?: ?(?:([+-]\d\d):?(\d\d)?|[Zz]|UTC))?)?$"
)
_ISO_PARTS: Final = "%Y-%m-%dT%H:%M:%S%.f%:z"
_FIXES: Final = {
    r"^[+-]?[\d.,]+[eE][+-]?\d+$": "A spreadsheet has rounded this number; show the column as "
    "whole numbers and export it again.",
    r"^\d{1,3}([.,'\s]\d{3})+$": "Write numbers without separators of thousands.",
    r"\d\s*(\[\w+/\w+\]|[A-Z]{3,5})$": "Write offsets, such as +01:00, instead of the names of "
    "time zones.",
}

# Formats that an error message can suggest: dates, and times after them.
_DATE_FORMATS: Final = (
    "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d.%m.%Y", "%Y.%m.%d", "%d-%m-%Y", "%m-%d-%Y",
    "%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y",
    "%B %d, %Y", "%A, %B %d, %Y", "%Y-%m-%d", "%Y%m%d", "%Y年%m月%d日",
)  # fmt: skip
_TIME_FORMATS: Final = (
    "", " %H:%M", " %H:%M:%S", ", %H:%M", ", %H:%M:%S", "T%H%M%S", "T%H%M%SZ", " %I:%M %p",
    " %I:%M:%S %p", ", %I:%M %p", ", %I:%M:%S %p",
)  # fmt: skip
_OTHER_FORMATS: Final = (
    "%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z", "%a, %d %b %Y %H:%M:%S GMT",
    "%d/%b/%Y:%H:%M:%S %z",
)  # fmt: skip
_DIGIT_FORMATS: Final = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


# Type of a parsed time: integer milliseconds since 1970 or the rank, the time without loss of
# precision, to sort by, and whether the milliseconds are less precise.
PARSED_TIME: Final = pl.Struct(
    {"milliseconds": pl.Int64(), "exact": pl.Int128(), "is_reduced": pl.Boolean()}
)


def parse_times(values: pl.Series, *, unit: TimeUnit, time_format: str | None = None) -> pl.Series:
    """Parse a column of times.

    Args:
        values: The column. Dates are used as they are; texts and numbers are converted.
        unit: Unit of numbers; "iso" for ISO 8601 text, in UTC if it has no offset; "excel" for
            the day numbers of spreadsheets; "rank" for numbers that only define an order.
        time_format: Format of dates as text, which replaces `unit`: strftime directives, with
            `%.f` or `.%f` for fractions of a second. In UTC without `%z`.

    Returns:
        Structs of type `PARSED_TIME`, null where a value is not a time between 1970 and 2200.
    """
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    if values.dtype in (pl.Date, pl.Datetime):
        parsed = _parse_dates(values)
    elif not values.dtype.is_numeric() and values.dtype != pl.String:
        parsed = pl.DataFrame(schema=PARSED_TIME.to_schema()).clear(len(values))
    elif time_format is not None or unit == "iso":
        parsed = _parse_text(values, time_format)
    else:
        parsed = _parse_numbers(values, unit)
    fields = pl.struct(pl.col(name).cast(dtype) for name, dtype in PARSED_TIME.to_schema().items())
    is_time = pl.col("milliseconds").is_not_null()
    return parsed.select(pl.when(is_time).then(fields).alias(values.name)).to_series()


def to_datetime(milliseconds: float) -> datetime:
    """Return the UTC time of milliseconds since 1970."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)


def from_milliseconds(milliseconds: int, unit: str) -> int | float:
    """Return the number in a unit that is read as the given milliseconds since 1970.

    Args:
        milliseconds: Milliseconds since 1970.
        unit: A unit of numbers; others return the milliseconds.
    """
    if unit in _PER_MILLISECOND:
        return milliseconds * _PER_MILLISECOND[unit]
    if unit not in _MILLISECONDS:
        return milliseconds
    value = milliseconds / _MILLISECONDS[unit] + (_EXCEL_1970 if unit == "excel" else 0)
    return int(value) if value.is_integer() else value


def likely_unit(low: float, high: float) -> NumericUnit | None:
    """Return the unit in which two numbers are times between 1991 and 2100, None if none is."""
    for unit in UNIT_NAMES:
        if all(
            FIRST_LIKELY_MS <= _milliseconds(value, unit) < _LAST_LIKELY_MS for value in (low, high)
        ):
            return unit  # type: ignore[return-value]
    return None


def misread_milliseconds(value: int) -> str | None:
    """Return why a number is not plausible as milliseconds since 1970, None if it is.

    Small numbers, which no unit turns into a time after 1991, are accepted: tests use them.
    """
    unit = likely_unit(value, value)
    if unit in {None, "ms"} and 0 <= value <= LAST_MS:
        return None
    problem = f"{value} is not a time between 1970 and 2200 in milliseconds"
    if unit in {None, "ms"}:
        return f"{problem}. Send milliseconds since 1970."
    return f"{problem}. It looks like {UNIT_NAMES[unit]}; convert it to milliseconds."


def format_problem(form: str) -> str:
    """Return why a format cannot be used for times, as sentences; empty if it can."""
    if re.search("%[+#_0^-]*Z", form):
        return (
            "The names of time zones (%Z) are ambiguous. Write offsets (%z), such as +01:00, or "
            "times in UTC."
        )
    form = _to_polars(form)
    if "%f" in form:
        return "Write fractions of a second as %.f, which includes the point."
    example = pl.Series([datetime(2021, 12, 23, 21, tzinfo=UTC)])
    try:
        text = example.dt.to_string(form)
        parsed = text.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        parsed = example.clear(1)
    if parsed.dt.date().equals(example.dt.date(), null_equal=False):
        return ""
    return (
        "Write a format with strftime directives of the year, month and day, and %p with hours of "
        "a 12-hour clock, for example '%d/%m/%Y %H:%M'."
    )


def settings_for(value: object) -> list[str]:
    """Return the settings that read a value as a time, the likeliest first.

    Args:
        value: Value of a time column, text or number.

    Returns:
        Settings such as "data.time_unit=ms" and "data.time_format='%d/%m/%Y'"; empty if the value
        does not look like a time.
    """
    text = str(value).strip()[:40]
    if re.fullmatch(r"\d+(\.\d*)?", text):
        digits = text.removesuffix(".0")
        day_first = _DIGIT_FORMATS.get(len(digits))
        if day_first and digits.isdecimal() and _matches(digits, day_first):
            return [_format_setting(day_first)]
        unit = likely_unit(float(text), float(text))
        return [] if unit is None else [f"data.time_unit={unit}"]
    if re.match(_ISO, text):
        return ["data.time_unit=iso"]
    formats = [date + time for date in _DATE_FORMATS for time in _TIME_FORMATS]
    return [_format_setting(form) for form in (*formats, *_OTHER_FORMATS) if _matches(text, form)]


def fix_for(value: object) -> str:
    """Return how to fix a text that no setting reads as a time; empty if that is not known."""
    text = str(value).strip()
    return next((fix for pattern, fix in _FIXES.items() if re.search(pattern, text)), "")


def _parse_dates(values: pl.Series) -> pl.DataFrame:
    """Parse columns of a date type."""
    is_fine = values.dtype in (pl.Datetime("us"), pl.Datetime("ns"))
    milliseconds = pl.col("exact").cast(pl.Datetime("ms")).to_physical()
    is_reduced = pl.col("exact").cast(pl.Datetime("ms")).cast(values.dtype) != pl.col("exact")
    return (
        values.alias("exact")
        .to_frame()
        .select(
            "exact", milliseconds=pl.when(milliseconds.is_between(0, LAST_MS)).then(milliseconds)
        )
        .select(
            "milliseconds",
            pl.col("exact").to_physical(),
            is_reduced=is_reduced if is_fine else pl.lit(value=False),
        )
    )


def _parse_text(values: pl.Series, time_format: str | None) -> pl.DataFrame:
    """Parse dates as text, in ISO 8601 without a format."""
    if values.dtype.is_float():
        values = values.cast(pl.Int64, strict=False)
    text = pl.col("text").cast(pl.String).str.strip_chars()
    form = _ISO_PARTS
    if time_format is None:
        text = _complete_iso(text)
    else:
        form = _to_polars(time_format)

    def parse(unit: Literal["us", "ns"]) -> pl.Expr:
        return pl.col("text").str.to_datetime(form, time_unit=unit, time_zone="UTC", strict=False)

    # Nanoseconds overflow silently, so only dates in range are read with them.
    is_in_range = parse("us").dt.year().is_between(1970, 2199)
    return (
        values.alias("text")
        .to_frame()
        .select(text)
        .select(pl.when(is_in_range).then("text").alias("text"))
        .select(exact=parse("ns").to_physical())
        .select(
            "exact",
            milliseconds=pl.col("exact") // 1_000_000,
            is_reduced=pl.col("exact") % 1_000_000 != 0,
        )
    )


def _to_polars(form: str) -> str:
    """Return a format with the directive of Polars for fractions of a second."""
    return form.replace(".%f", "%.f")


def _complete_iso(text: pl.Expr) -> pl.Expr:
    """Return ISO 8601 dates and times with all parts, null where the text is neither."""
    parts = text.str.extract_groups(_ISO)

    def part(number: int, default: str) -> pl.Expr:
        return parts.struct.field(str(number)).fill_null(default)

    return pl.concat_str(
        parts.struct.field("1"),
        pl.lit("T"),
        part(2, "00:00"),
        part(3, ":00"),
        pl.lit("."),
        part(4, "0"),
        part(5, "+00"),
        pl.lit(":"),
        part(6, "00"),
    ).alias("text")


def _parse_numbers(values: pl.Series, unit: TimeUnit) -> pl.DataFrame:
    """Parse numbers and numbers as text."""
    exact = pl.col("exact")
    frame = values.alias("exact").to_frame()
    if values.dtype == pl.String:
        text = exact.str.strip_chars()
        frame = frame.select(pl.when(~text.str.contains("[eE]")).then(text).alias("exact"))
    whole = frame.select(exact.cast(pl.Int64, strict=False))
    if not values.dtype.is_float() and whole.null_count().equals(frame.null_count()):
        # Integers of 128 bits are much faster than decimals.
        frame = whole.select(exact.cast(pl.Int128) * _SCALE)
    else:
        frame = frame.select(exact.cast(_EXACT, strict=False).to_physical())
    first, last, per_unit, units = -(2**63), 2**63 - 1, 1, 1
    if unit != "rank":
        first = _EXCEL_1970 if unit == "excel" else 0
        per_unit, units = _MILLISECONDS.get(unit, 1), _PER_MILLISECOND.get(unit, 1)
        last = first + LAST_MS // per_unit * units
    scaled = (exact - (0 if unit == "rank" else first) * _SCALE) * per_unit
    scale = _SCALE * units
    # Decimals of numbers are often inexact: 0.123 s must not become 122 ms.
    half = scale // 2 if unit in {"s", "ms", "excel"} else 0
    return (
        frame.select(pl.when(exact.is_between(first * _SCALE, last * _SCALE)).then(exact))
        .select("exact", scaled=scaled)
        .select(
            "exact",
            milliseconds=(pl.col("scaled") + half) // scale,
            is_reduced=pl.col("scaled") % scale != 0,
        )
    )


def _milliseconds(value: float, unit: str) -> float:
    """Return the milliseconds since 1970 of a number in a unit."""
    if not math.isfinite(value):
        return math.nan
    if unit in _PER_MILLISECOND:
        return value / _PER_MILLISECOND[unit]
    return (value - (_EXCEL_1970 if unit == "excel" else 0)) * _MILLISECONDS[unit]


def _matches(text: str, form: str) -> bool:
    try:
        return 1991 <= datetime.strptime(text, form).year < 2100
    except ValueError:
        return False


def _format_setting(form: str) -> str:
    return f"data.time_format='{form}'"
