"""The pass over a table: bad and blank rows, decimal commas, aggregates."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.data.reading.checks import (
    Checked,
    NeedsRepairError,
    check_rows,
    has_decimal_commas,
)
from mllm_msr.data.reading.records import LINE, Column, RawTable
from mllm_msr.data.reading.rows import BadRows
from mllm_msr.errors import DataError
from mllm_msr.types import SourceFile

COLUMNS = {
    "user": Column("u", "id", setting="data.user_column"),
    "score": Column("s", "number"),
    "title": Column("t", "text", required=False),
}


def raw(frame: pl.DataFrame, **changes: object) -> RawTable:
    columns = tuple(name for name in frame.columns if name != LINE)
    description = SourceFile(Path("t.csv"), "rows", "CSV")
    return RawTable(frame.lazy(), columns, "t.csv", description, **changes)  # type: ignore[arg-type]


def check(
    table: RawTable, bad_rows: BadRows, columns: dict[str, Column] = COLUMNS, **aggregates: pl.Expr
) -> Checked:
    found = check_rows(table, columns, bad_rows, aggregates, decimal_comma=False)
    bad_rows.finish(found.n_kept)
    return found


GOOD = pl.DataFrame({"u": ["a", "b"], "s": ["1", "2.5"], "other": ["x", None]})
BAD = pl.DataFrame(
    {
        "u": ["a", None, " ", "b", None, "c", "d"],
        "s": ["1", "2", None, "x", None, "", "y"],
        "other": ["", "", "z", "", " ", "", ""],
    }
)


def test_good_rows_are_converted() -> None:
    found = check(raw(GOOD), BadRows("t.csv", "error"), top=pl.col("score").max())
    assert found.frame.collect().rows() == [("a", 1.0, None), ("b", 2.5, None)]
    assert found.frame.collect_schema()["title"] == pl.String
    assert (found.n_rows, found.present, found.aggregates) == (2, ("user", "score"), {"top": 2.5})


def test_bad_rows_are_dropped_and_counted_once_each(caplog: pytest.LogCaptureFixture) -> None:
    rows = BadRows("t.csv", "drop")
    found = check(raw(BAD), rows, top=pl.col("score").max(), n=pl.len())
    assert found.frame.collect().rows() == [("a", 1.0, None)]
    assert found.aggregates == {"top": 1.0, "n": 1}
    # One row is blank; the row with neither id nor score counts once.
    assert found.n_rows == 6
    assert rows.counts == {"no u": 2, "no s": 1, "invalid s": 2}
    assert caplog.messages[-1] == (
        "t.csv: dropped 2 of 6 rows (invalid s). Data row 4 of t.csv has 'x' in the column s, "
        "which is not a finite number."
    )


def test_the_first_bad_row_is_an_error() -> None:
    with pytest.raises(DataError, match=r"Data row 2 of t\.csv has no value in the column u \(2 o"):
        check(raw(BAD), BadRows("t.csv", "error"))


def test_values_may_be_missing_but_not_invalid_if_a_column_is_nullable() -> None:
    columns = {"s": Column("s", "number", nullable=True)}
    rows = BadRows("t.csv", "drop")
    found = check(raw(BAD.filter(pl.col("u").is_not_null())), rows, columns)
    assert found.frame.collect()["s"].to_list() == [1.0, None, None]
    assert rows.counts == {"invalid s": 2}


def test_rows_of_text_files_are_named_by_their_line() -> None:
    frame = GOOD.with_columns(pl.Series(LINE, [4, 9]), s=pl.Series(["1", "x"]))
    with pytest.raises(DataError, match=r"Line 9 of t\.csv has 'x'"):
        check(raw(frame, has_blank_rows=False), BadRows("t.csv", "error"))


def test_a_row_without_used_values_is_blank_only_if_all_values_are_missing() -> None:
    frame = pl.DataFrame({"u": ["a", None], "s": ["1", None], "other": [None, "x"]})
    with pytest.raises(DataError, match="Data row 2"):
        check(raw(frame), BadRows("t.csv", "error"))
    blank = frame.with_columns(other=pl.lit(" "))
    assert check(raw(blank), BadRows("t.csv", "error")).n_rows == 1


def test_rows_that_polars_misreads_need_repair() -> None:
    rows = BadRows("t.csv", "drop")
    with pytest.raises(NeedsRepairError):
        check(raw(GOOD, invalid=pl.col("other").is_not_null()), rows)
    assert check(raw(GOOD, invalid=pl.col("other") == "y"), rows).n_rows == 2


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (Column("s", "number"), "finite number.*set data.decimal_comma=true"),
        (Column("s", "integer"), "whole number.*set data.decimal_comma=true"),
    ],
)
def test_a_decimal_comma_is_named(column: Column, message: str) -> None:
    frame = pl.DataFrame({"s": ["4,5"]})
    with pytest.raises(DataError, match=message):
        check(raw(frame), BadRows("t.csv", "error"), {"s": column})


def test_columns_explain_what_they_expect() -> None:
    column = Column(
        "u",
        "value",
        setting="data.time_column",
        convert=lambda value, _: value.cast(pl.Int64, strict=False),
        expected="a time",
    )
    with pytest.raises(
        DataError, match=r"'a' in the column u, which is not a time.*Check that data\.time_column"
    ):
        check(raw(GOOD), BadRows("t.csv", "error"), {"u": column})
    fixed = Column("u", "value", convert=column.convert, fix=lambda value: f"Replace {value}.")
    with pytest.raises(DataError, match=r"not a value.* Replace a\. Or correct the data"):
        check(raw(GOOD), BadRows("t.csv", "error"), {"u": fixed})


def test_a_column_without_any_value_is_probably_the_wrong_one() -> None:
    for user, message in (
        (
            None,
            r"^All 2 rows of t\.csv are bad for the same reason\. .* Check that data\.user_column",
        ),
        ("a", r"has no value in the column u\. Correct the data, or set data\.on_bad_rows=drop"),
    ):
        frame = GOOD.with_columns(u=pl.Series([user, None], dtype=pl.String))
        with pytest.raises(DataError, match=message):
            check(raw(frame), BadRows("t.csv", "error"))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["4,5", "3", None], True),
        (["4", "3"], False),
        (["4,5", "3.5"], False),
        (["4,5,6"], False),
    ],
)
def test_decimal_commas_are_detected(values: list[str], found: bool) -> None:
    frame = pl.DataFrame({"u": ["1,2"] * len(values), "s": values})
    assert has_decimal_commas(raw(frame), COLUMNS) == found
    assert not has_decimal_commas(raw(frame), {"u": Column("u", "id")})
