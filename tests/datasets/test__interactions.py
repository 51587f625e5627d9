"""Conversion of interactions: times, ids, ratings, and errors for invalid values."""

from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.datasets._interactions import to_interactions
from mllm_msr.errors import DataError, SettingsError

PATH = Path("r.csv")


def read(table: pl.LazyFrame, **settings: object) -> list[tuple[object, ...]]:
    columns = {"user": "u", "item": "i", "time": "t", "unit": "s"}
    return to_interactions(table, PATH, **(columns | settings)).collect().rows()  # type: ignore[arg-type]


def table(**columns: list[object]) -> pl.LazyFrame:
    return pl.LazyFrame({"u": ["1"], "i": ["7"], "t": ["5"]} | columns, strict=False)


@pytest.mark.parametrize(
    ("unit", "value", "milliseconds"),
    [
        ("s", "1600000000", 1_600_000_000_000),
        ("s", "1600000000.25", 1_600_000_000_250),
        ("ms", "1583378952364", 1_583_378_952_364),
        ("us", "1583378952364000", 1_583_378_952_364),
        ("ns", "1583378952364000000", 1_583_378_952_364),
        ("iso", "1970-01-01T00:00:02", 2000),
        ("iso", "1970-01-01T00:00:02Z", 2000),
        ("iso", "1970-01-01T02:00:02+02:00", 2000),
        ("iso", "1970-01-02", 86_400_000),
        ("rank", "3", 3),
    ],
)
def test_times_are_converted_to_milliseconds(unit: str, value: str, milliseconds: int) -> None:
    assert read(table(t=[value]), unit=unit) == [("1", "7", milliseconds)]


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [(datetime(1970, 1, 1, 0, 0, 2), 2000), (date(1970, 1, 2), 86_400_000)],
)
def test_dates_need_no_unit(value: object, milliseconds: int) -> None:
    assert read(table(t=[value])) == [("1", "7", milliseconds)]


def test_without_a_time_the_row_order_is_used() -> None:
    frame = pl.LazyFrame({"u": ["1", "1"], "i": ["8", "7"]})
    assert read(frame, time=None) == [("1", "8", 0), ("1", "7", 1)]


def test_numeric_ids_become_strings() -> None:
    assert read(table(u=[1], i=[7])) == [("1", "7", 5000)]


def test_low_ratings_are_removed() -> None:
    frame = pl.LazyFrame({"u": ["1"] * 3, "i": ["a", "b", "c"], "t": [1, 2, 3], "r": [3.5, 4, 2]})
    assert [row[1] for row in read(frame, rating="r", min_rating=3.5)] == ["a", "b"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"u": [None]},
            r"column u in r\.csv has invalid values in 1 of 1 rows.* None in data row 1",
        ),
        ({"i": [None]}, r"column i in r\.csv .* not an id"),
        ({"t": ["NaN"]}, r"column t .* 'NaN' in data row 1; it is not a time"),
        ({"t": ["inf"]}, r"'inf'.*check data\.time_unit"),
        ({"t": ["2020-01-01"]}, r"'2020-01-01'.*check data\.time_unit"),
        ({"r": ["NaN"]}, r"column r .* 'NaN' .* not a finite number"),
        ({"r": [None]}, r"column r .* None"),
    ],
)
def test_invalid_values_are_an_error(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(table(**({"r": ["1"]} | columns)), rating="r")


def test_the_first_invalid_row_is_reported() -> None:
    frame = pl.LazyFrame({"u": ["1"] * 4, "i": ["a"] * 4, "t": ["1", "2", "x", "y"]})
    with pytest.raises(DataError, match=r"in 2 of 4 rows\. The first is 'x' in data row 3"):
        read(frame)


def test_a_table_without_rows_is_an_error() -> None:
    with pytest.raises(DataError, match=r"r\.csv contains no interactions"):
        read(table().filter(False))


def test_an_unknown_unit_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"data\.time_unit is 'days'\. Choose one of s, ms"):
        read(table(), unit="days")
