"""Conversion of columns: ids are texts, numbers are finite, other types are errors."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import polars as pl
import pytest

from mllm_msr.data.reading.records import Column, Kind
from mllm_msr.data.reading.values import convert, stored, type_of
from mllm_msr.errors import DataError


def values(
    data: list[object], kind: Kind, *, dtype: pl.DataType | None = None, decimal_comma: bool = False
) -> list[object]:
    frame = pl.DataFrame({"x": pl.Series(data, dtype=dtype)})
    column = Column("x", kind)
    expression = convert(column, frame["x"].dtype, file="t.csv", decimal_comma=decimal_comma)
    found = frame.select(expression).to_series()
    assert kind == "value" or found.dtype == type_of(column)
    return found.to_list()


@pytest.mark.parametrize(
    ("data", "ids"),
    [
        (["003", " v1\t", "1e5", "", "  ", None], ["003", "v1", "1e5", None, None, None]),
        ([3, -4, None], ["3", "-4", None]),
        ([101.0, None, float("nan"), -2.0], ["101", None, None, "-2"]),
        ([101.5, float("inf"), 2.0**53, 7.0], [None, None, None, "7"]),
        ([Decimal(12345678901234567890), Decimal(7)], ["12345678901234567890", "7"]),
        ([Decimal("101.00"), Decimal("1.50")], ["101", None]),
        ([None, None], [None, None]),
    ],
)
def test_ids_are_texts(data: list[object], ids: list[object]) -> None:
    assert values(data, "id") == ids


def test_floats_that_have_lost_digits_are_neither_ids_nor_integers() -> None:
    for kind in ("id", "integer"):
        largest = 2.0**24
        found = values([largest - 1, largest, largest + 4], kind, dtype=pl.Float32())
        assert [str(found[0]), *found[1:]] == ["16777215", None, None]
    assert values([2.0**53, 2.0**53 - 1], "integer") == [None, 2**53 - 1]


def test_categories_are_ids() -> None:
    assert values(["a", " b"], "id", dtype=pl.Categorical()) == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (["a ", "", None], ["a ", None, None]),
        ([300, None], ["300", None]),
        ([300.0, 0.5], ["300", "0.5"]),
        ([True], ["true"]),
        ([date(2024, 3, 1)], ["2024-03-01"]),
        ([None], [None]),
    ],
)
def test_texts_may_be_null(data: list[object], texts: list[object]) -> None:
    assert values(data, "text") == texts


def test_numbers_are_finite() -> None:
    data = [" 4.5", "1e3", "inf", "x", "4,5", ""]
    assert values(data, "number") == [4.5, 1000.0, None, None, None, None]
    assert values([1, None], "number") == [1.0, None]
    assert values([0.5, float("nan"), float("-inf")], "number") == [0.5, None, None]


def test_decimal_commas() -> None:
    data = ["4,5", "-0,25", ",5", "3", "1.234,5", "1,2,3"]
    assert values(data, "number", decimal_comma=True) == [4.5, -0.25, 0.5, 3.0, None, None]
    assert values(["4,5", "a,b"], "value", decimal_comma=True) == ["4.5", "a,b"]
    assert values(["4,5"], "id", decimal_comma=True) == ["4,5"]
    assert values(["4,5"], "text", decimal_comma=True) == ["4,5"]


def test_integers_keep_all_digits() -> None:
    assert values(["9007199254740993", "1.0", "x"], "integer") == [9007199254740993, None, None]
    assert values([1.0, 1.5], "integer") == [1, None]


def test_a_function_converts_values() -> None:
    column = Column("x", "value", convert=lambda value, dtype: value.str.len_chars())
    frame = pl.DataFrame({"x": [" ab ", " "]})
    expression = convert(column, pl.String(), file="t.csv", decimal_comma=False)
    assert frame.select(expression)["x"].to_list() == [2, None]


def test_stored_values_are_stripped() -> None:
    frame = pl.DataFrame({"x": [" 4,5 ", ""], "y": [1.0, float("nan")]})
    text = stored("x", pl.String(), decimal_comma=False)
    number = stored("y", pl.Float64(), decimal_comma=False)
    assert frame.select(text, number).rows() == [("4,5", 1.0), (None, None)]


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("id", [["a"]], r"column x of t\.csv contains values of type List\(String\) from row 1"),
        ("id", [True], r"has the type Boolean, but ids are texts or whole numbers"),
        ("id", [date(2024, 3, 1)], r"has the type Date, but ids"),
        ("text", [{"en": "x"}], r"values of type Struct.*texts must be plain.*to text"),
        ("text", [b"x"], r"values of type Binary"),
        ("number", [date(2024, 3, 1)], r"has the type Date, but must contain numbers"),
        ("integer", [[1]], r"has the type List\(Int64\), but must contain numbers"),
    ],
)
def test_other_types_are_an_error(kind: Kind, data: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        values(data, kind)
