"""Times: units, formats, exact order, and values that another unit or format fits."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.data.times import (
    LAST_MS,
    PARSED_TIME,
    fix_for,
    format_problem,
    from_milliseconds,
    likely_unit,
    misread_milliseconds,
    parse_times,
    settings_for,
    to_datetime,
)

MOMENT = 1_709_294_400_000  # 2024-03-01 12:00 UTC


def parse(
    values: list[object], unit: str = "s", time_format: str | None = None, dtype=None
) -> pl.DataFrame:
    parsed = parse_times(pl.Series("t", values, dtype=dtype), unit=unit, time_format=time_format)  # type: ignore[arg-type]
    assert parsed.dtype == PARSED_TIME
    assert len(parsed) == len(values)
    return parsed.struct.unnest()


def milliseconds(value: object, unit: str = "s", time_format: str | None = None) -> int | None:
    return parse([value], unit, time_format)["milliseconds"][0]


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("s", "1709294400"),
        ("s", 1709294400),
        ("s", 1709294400.0),
        ("s", " 1709294400.000 "),
        ("ms", "1709294400000"),
        ("us", 1709294400000000),
        ("ns", "1709294400000000000"),
        ("excel", "45352.5"),
        ("excel", 45352.5),
        ("iso", "2024-03-01T12:00:00Z"),
        ("iso", "2024-03-01T12:00:00"),
        ("iso", "2024-03-01t12:00:00z"),
        ("iso", "2024-03-01 12:00:00"),
        ("iso", "2024-03-01 12:00:00.000"),
        ("iso", "2024-03-01 12:00:00,000"),
        ("iso", "2024-03-01 12:00"),
        ("iso", "2024-03-01 12:00:00 UTC"),
        ("iso", "2024-03-01 12:00:00.000000000001"),
        ("iso", "2024-03-01T14:00:00+02:00"),
        ("iso", "2024-03-01T14:00:00+0200"),
        ("iso", "2024-03-01 06:30:00-05:30"),
        ("iso", "2024-03-01T14:00+02"),
    ],
)
def test_values_are_converted_to_milliseconds(unit: str, value: object) -> None:
    assert milliseconds(value, unit) == MOMENT


def test_dates_are_midnight_in_utc() -> None:
    assert milliseconds("2024-03-01", "iso") == MOMENT - 12 * 3_600_000
    assert milliseconds("45352", "excel") == MOMENT - 12 * 3_600_000


@pytest.mark.parametrize(
    ("time_format", "value"),
    [
        ("%d/%m/%Y %H:%M", "01/03/2024 12:00"),
        ("%d/%m/%Y %H:%M", "1/3/2024 12:00"),
        ("%m/%d/%Y %I:%M %p", "03/01/2024 12:00 PM"),
        ("%d.%m.%Y, %H:%M:%S", "01.03.2024, 12:00:00"),
        ("%Y-%m-%d %H:%M:%S.%f", "2024-03-01 12:00:00.000"),
        ("%Y-%m-%d %H:%M:%S%.f", "2024-03-01 12:00:00"),
        ("%Y%m%d%H%M", "202403011200"),
        ("%Y%m%d%H%M", 202403011200),
        ("%Y%m%d%H%M", 202403011200.0),
        ("%d/%b/%Y:%H:%M:%S %z", "01/Mar/2024:14:00:00 +0200"),
        ("%a %b %d %H:%M:%S %z %Y", "Fri Mar 01 12:00:00 +0000 2024"),
        ("%a, %d %b %Y %H:%M:%S GMT", "Fri, 01 Mar 2024 12:00:00 GMT"),
        ("%b %d, %Y %H:%M", "Mar 01, 2024 12:00"),
    ],
)
def test_a_format_reads_dates_as_text(time_format: str, value: object) -> None:
    assert milliseconds(value, time_format=time_format) == MOMENT


def test_day_and_month_follow_the_format() -> None:
    day_first = milliseconds("03/04/2024", time_format="%d/%m/%Y")
    month_first = milliseconds("03/04/2024", time_format="%m/%d/%Y")
    assert to_datetime(day_first or 0).date() == date(2024, 4, 3)
    assert to_datetime(month_first or 0).date() == date(2024, 3, 4)


@pytest.mark.parametrize(
    "value",
    [
        "03/04/2024", "2024/03/01", "01.03.2024", "20240301", "1709294400", "2024-3-1",
        "2024-02-30", "2024-03-01T25:00:00", "2024-03",
        "2024", "2024-W10-1", "2024-061", "12:00", "x2024-03-01",
        "2024-03-01 12:00:00 CET", "2024-03-01T12:00:00Z; 2024-03-02",
        "\N{ARABIC-INDIC DIGIT TWO}024-03-01",
    ],
)  # fmt: skip
def test_iso_accepts_nothing_else(value: str) -> None:
    assert milliseconds(value, "iso") is None


def test_an_integer_column_is_not_iso() -> None:
    assert milliseconds(1709294400, "iso") is None


@pytest.mark.parametrize("value", ["", "NaN", "inf", "1.7E+12", "1709294400s", "2024-03-01", "1,5"])
def test_text_that_is_not_a_number_is_not_a_time(value: str) -> None:
    assert milliseconds(value) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, 2**64 - 1])
def test_numbers_out_of_range_are_not_times(value: float) -> None:
    assert milliseconds(value) is None
    assert parse([value], "rank")["milliseconds"][0] is None


@pytest.mark.parametrize("dtype", [pl.Boolean, pl.Time, pl.Duration, pl.List(pl.Int64), pl.Binary])
@pytest.mark.parametrize("unit", ["s", "iso", "rank"])
def test_columns_of_other_types_have_no_times(dtype: pl.DataType, unit: str) -> None:
    value = {pl.Boolean: True, pl.Time: timedelta(hours=2), pl.Binary: b"1709294400"}
    column = [[1709294400]] if dtype == pl.List else [value.get(dtype, timedelta(hours=1))]
    if dtype == pl.Time:
        column = [datetime(2024, 3, 1, 12, tzinfo=UTC).time()]
    assert parse(column, unit, dtype=dtype)["milliseconds"].to_list() == [None]


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("s", "-1"),
        ("s", "1700001105000"),
        ("ms", 1_700_001_105_000_000),
        ("ns", "-5"),
        ("excel", "1"),
        ("iso", "1969-12-31T23:59:59Z"),
        ("iso", "9999-12-31"),
        ("iso", "2700-01-01"),
        ("iso", "0001-01-01T00:00:00"),
        ("s", date(1900, 1, 1)),
        ("s", datetime(9999, 12, 31)),
    ],
)
def test_times_outside_1970_to_2200_are_not_times(unit: str, value: object) -> None:
    assert parse([value], unit).row(0) == (None, None, None)


def test_dates_need_no_unit() -> None:
    for unit in ("s", "iso", "excel", "rank"):
        assert milliseconds(datetime(2024, 3, 1, 12), unit) == MOMENT
        assert milliseconds(datetime(2024, 3, 1, 12, tzinfo=UTC), unit) == MOMENT
        assert milliseconds(date(2024, 3, 1), unit) == MOMENT - 12 * 3_600_000


@pytest.mark.parametrize(
    ("unit", "earlier", "later"),
    [
        ("rank", "9007199254740992", "9007199254740993"),
        ("rank", 9007199254740992, 9007199254740993),
        ("rank", "-9007199254740993", "-9007199254740992"),
        ("rank", "1.25", "1.5"),
        ("ns", "1709294400000000001", "1709294400000000002"),
        ("us", 1709294400000001, 1709294400000002),
        ("s", "1709294400.000000001", "1709294400.000000002"),
        ("s", 1709294400.0001, 1709294400.0002),
        ("iso", "2024-03-01T12:00:00.000000001Z", "2024-03-01T12:00:00.000000002Z"),
        ("iso", "2024-03-01T12:00:00.0000001Z", "2024-03-01T12:00:00.0000002Z"),
    ],
)
def test_exact_times_keep_the_order_within_a_millisecond(
    unit: str, earlier: object, later: object
) -> None:
    frame = parse([earlier, later], unit)
    first, second = frame["exact"]
    assert first < second
    is_whole_rank = unit == "rank" and "." not in str(earlier)
    assert frame["is_reduced"].to_list() == [not is_whole_rank] * 2


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("s", "1709294400.123"),
        ("ms", 1709294400123),
        ("us", "1709294400123000"),
        ("iso", "2024-03-01T12:00:00.123Z"),
        ("excel", "45352.5"),
        ("s", date(2024, 3, 1)),
        ("s", datetime(2024, 3, 1, 12, 0, 0, 123_000)),
    ],
)
def test_whole_milliseconds_are_not_reduced(unit: str, value: object) -> None:
    assert parse([value], unit)["is_reduced"].to_list() == [False]


def test_milliseconds_are_converted_back() -> None:
    for unit, value in (("s", 1709294400), ("us", MOMENT * 1000), ("excel", 45352.5)):
        assert from_milliseconds(MOMENT, unit) == value
    assert from_milliseconds(MOMENT, "iso") == MOMENT


def test_ranks_are_integers() -> None:
    values = ["9007199254740993", "-3", str(2**63 - 1), str(2**63)]
    assert parse(values, "rank")["milliseconds"].to_list() == [2**53 + 1, -3, 2**63 - 1, None]


@given(st.integers(0, LAST_MS - 1), st.sampled_from(["s", "ms", "us", "ns", "iso", "format"]))
def test_every_unit_and_format_gives_the_same_milliseconds(value: int, unit: str) -> None:
    moment = to_datetime(0) + timedelta(milliseconds=value)
    text = {
        "s": f"{value // 1000}.{value % 1000:03}",
        "ms": f"{value}",
        "us": f"{value}999",
        "ns": f"{value}999999",
        "iso": moment.isoformat(timespec="milliseconds"),
        "format": f"{moment:%d.%m.%Y %H:%M:%S}.{value % 1000:03}",
    }[unit]
    if unit == "format":
        assert milliseconds(text, time_format="%d.%m.%Y %H:%M:%S%.f") == value
    else:
        assert milliseconds(text, unit) == value


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_none(text: str) -> None:
    for unit in ("s", "iso", "excel", "rank"):
        parse([text], unit)
    parse([text], time_format="%d/%m/%Y")
    assert isinstance(settings_for(text), list)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1700001105, "data.time_unit=s"),
        ("1700001105.25", "data.time_unit=s"),
        ("1700001105000", "data.time_unit=ms"),
        (1700001105000000, "data.time_unit=us"),
        ("1700001105000000000", "data.time_unit=ns"),
        ("45352.6003", "data.time_unit=excel"),
        (45352, "data.time_unit=excel"),
        ("2024-03-01 12:00:00+01:00", "data.time_unit=iso"),
        (20240301, "data.time_format='%Y%m%d'"),
        ("20240301", "data.time_format='%Y%m%d'"),
        ("20240301120000", "data.time_format='%Y%m%d%H%M%S'"),
        ("13/04/2024", "data.time_format='%d/%m/%Y'"),
        ("04/13/2024 1:05 PM", "data.time_format='%m/%d/%Y %I:%M %p'"),
        ("13.04.2024 23:59", "data.time_format='%d.%m.%Y %H:%M'"),
        ("Fri Mar 01 12:00:00 +0000 2024", "data.time_format='%a %b %d %H:%M:%S %z %Y'"),
    ],
)
def test_the_setting_that_reads_a_value_is_found(value: object, expected: str) -> None:
    assert settings_for(value)[0] == expected


def test_suggested_formats_read_the_value() -> None:
    value = "03/04/2024 05:06"
    found = settings_for(value)
    assert found == ["data.time_format='%d/%m/%Y %H:%M'", "data.time_format='%m/%d/%Y %H:%M'"]
    for setting in found:
        time_format = setting.removeprefix("data.time_format='").removesuffix("'")
        assert milliseconds(value, time_format=time_format) is not None


@pytest.mark.parametrize(
    "value",
    ["yesterday", "", "17", 0, "20241399", "1e12", "99999999999999999999", 638400000000000000],
)
def test_other_values_have_no_setting(value: object) -> None:
    assert settings_for(value) == []


def test_the_likely_unit_fits_all_values() -> None:
    assert likely_unit(1_600_000_000, 1_700_000_000) == "s"
    assert likely_unit(1_600_000_000, 1_700_000_000_000) is None
    assert likely_unit(float("nan"), 1) is None


def test_milliseconds_that_are_another_unit_are_recognized() -> None:
    assert misread_milliseconds(MOMENT) is None
    assert misread_milliseconds(3) is None
    assert "looks like seconds since 1970" in (misread_milliseconds(1709294400) or "")
    assert "looks like microseconds" in (misread_milliseconds(1709294400000000) or "")
    assert "between 1970 and 2200" in (misread_milliseconds(-1) or "")
    assert "between 1970 and 2200" in (misread_milliseconds(LAST_MS + 1) or "")


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        ("1.7E+12", "A spreadsheet has rounded this number"),
        (" 1,7e12 ", "A spreadsheet has rounded this number"),
        ("1,700,000,000", "Write numbers without separators"),
        ("1 700 000 000", "Write numbers without separators"),
        ("2024-03-01 12:00:00 CEST", "Write offsets, such as +01:00"),
        ("2024-03-01T12:00[Europe/Berlin]", "Write offsets, such as +01:00"),
        ("1700001105", ""),
        ("timestamp", ""),
    ],
)
def test_kinds_of_texts_that_are_not_times_have_a_fix(value: str, fix: str) -> None:
    found = fix_for(value)
    assert found.startswith(fix)
    assert bool(found) == bool(fix)


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ("%d/%m/%Y %H:%M", ""),
        ("%m/%d/%y %I:%M %p", ""),
        ("%Y年%m月%d日", ""),
        ("%Y-%m-%dT%H:%M:%S.%f%z", ""),
        ("%s", ""),
        ("%d/%m/%Y %I:%M", "Write a format with strftime directives"),
        ("%m/%Y", "Write a format with strftime directives"),
        ("%Q", "Write a format with strftime directives"),
        ("day", "Write a format with strftime directives"),
        ("%d/%m/%Y %H:%M %Z", "The names of time zones (%Z) are ambiguous"),
        ("%Y-%m-%d %H:%M:%S,%f", "Write fractions of a second as %.f"),
    ],
)
def test_formats_that_lose_the_day_or_the_offset_have_a_problem(form: str, problem: str) -> None:
    found = format_problem(form)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)
