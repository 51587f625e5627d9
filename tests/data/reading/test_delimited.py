"""CSV and similar files: separators, headers, and rows that Polars would misread."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.data.reading.delimited import open_delimited
from mllm_msr.data.reading.records import RawTable, ReadOptions
from mllm_msr.data.reading.rows import BadRows
from mllm_msr.data.reading.values import stored
from mllm_msr.errors import DataError

WANTED = ("u", "t")


def opened(
    tmp_path: Path, text: str, name: str = "t.csv", *, drop: bool = False, **options: object
) -> tuple[RawTable, BadRows]:
    path = tmp_path / name
    path.write_bytes(text.encode())
    bad_rows = BadRows(name, "drop" if drop else "error")
    how = ReadOptions(separator=options.pop("separator", None))  # type: ignore[arg-type]
    raw = open_delimited(path, WANTED, how, bad_rows, content="rows", **options)  # type: ignore[arg-type]
    return raw, bad_rows


def rows(raw: RawTable) -> list[tuple[str | None, ...]]:
    return raw.frame.select(WANTED).collect().rows()


def read_all(raw: RawTable, bad_rows: BadRows) -> None:
    """Read all rows slowly, and report the bad ones."""
    raw = raw.repair() if raw.repair is not None else raw
    bad_rows.finish(len(rows(raw)))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt"])
def test_the_separator_is_detected_by_content(tmp_path: Path, separator: str, name: str) -> None:
    text = 'u,s,t\n1,x,"a, b; c|d\te"\n2,y,z\n'.replace(",", separator)
    text = text.replace(f"a{separator} b", "a, b")
    raw, _ = opened(tmp_path, text, name)
    assert rows(raw) == [("1", "a, b; c|d\te".replace(",", ",")), ("2", "z")]
    assert raw.description.separator == separator
    assert raw.description.format == ("TSV" if separator == "\t" else "CSV")
    assert raw.columns == ("u", "s", "t")


def test_the_wanted_columns_decide_on_the_separator(tmp_path: Path) -> None:
    raw, _ = opened(tmp_path, "u;t\n1;a,b,c\n2;d,e,f\n")
    assert rows(raw) == [("1", "a,b,c"), ("2", "d,e,f")]


def test_the_separator_can_be_set(tmp_path: Path) -> None:
    raw, _ = opened(tmp_path, "u:t\n1:a,b\n", separator=":")
    assert rows(raw) == [("1", "a,b")]


def test_without_known_columns_lines_of_equal_width_decide(tmp_path: Path) -> None:
    raw, _ = opened(tmp_path, "x;y\n1;a,b\n2;c\n", "t.csv")
    assert raw.columns == ("x", "y")


def test_a_file_may_have_no_header(tmp_path: Path) -> None:
    raw, _ = opened(tmp_path, '1::2\n"x::y\n', names=["u", "_", "t"], quoted=False, separator=":")
    assert rows(raw) == [("1", "2"), ('"x', "y")]


def test_blank_lines_before_the_header_and_after_the_rows(tmp_path: Path) -> None:
    raw, _ = opened(tmp_path, "\n , \nu,t\n1,a\n\n\n")
    assert rows(raw)[0] == ("1", "a")
    assert set(rows(raw)[1:]) == {(None, None)}


def test_a_header_of_several_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    raw, _ = opened(tmp_path, '\ufeffu,"a\nb",t\r\n1,x,2\r\n')
    assert raw.columns == ("u", "a\nb", "t")
    assert rows(raw) == [("1", "2")]


def test_a_repeated_column_is_an_error_only_if_it_is_wanted(tmp_path: Path) -> None:
    raw, _ = opened(tmp_path, "u,x,x,x_2,t\n1,2,3,4,5\n")
    assert rows(raw) == [("1", "5")]
    assert len(set(raw.columns)) == 5
    with pytest.raises(DataError, match=r"t\.csv has 2 columns with the name 'u'"):
        opened(tmp_path, "u,u,t\n1,2,3\n")


def test_a_file_without_a_header_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv has no header\."):
        opened(tmp_path, "\n\n \n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('u,t\n1,a "b" c\n2,x"y\n', [("1", 'a "b" c'), ("2", 'x"y')]),
        ("u,t\r1,a\r2,b\r", [("1", "a"), ("2", "b")]),
        ('u,t\n1, "a"\n', [("1", ' "a"')]),
    ],
)
def test_text_that_polars_misreads_is_read(
    tmp_path: Path, text: str, expected: list[tuple[str, str]]
) -> None:
    assert rows(opened(tmp_path, text)[0]) == expected


@pytest.mark.parametrize(
    ("text", "is_stripped"),
    [
        ("u,t\r\n1,\r\n,b\r\n\r\n3", True),
        ("u,t\n1,\n,b\n\n3\n", True),
        ('u,t\n1,""\n,b\n"",\n3\n', False),
        ("u,t\n1, \n \t,b\n , \n3,\n", False),
    ],
)
def test_texts_need_no_stripping_without_spaces_and_quotes(
    tmp_path: Path, text: str, is_stripped: bool
) -> None:
    raw, _ = opened(tmp_path, text)
    assert raw.is_stripped == is_stripped
    values = [
        stored(name, pl.String(), decimal_comma=False, is_stripped=is_stripped) for name in WANTED
    ]
    expected = [("1", None), (None, "b"), (None, None), ("3", None)]
    assert raw.frame.select(values).collect().rows() == expected


def test_values_after_the_last_column_need_the_slow_reader(tmp_path: Path) -> None:
    raw, bad_rows = opened(tmp_path, "u,t\n1,a\n2,b,,\n3,c,d\n")
    assert raw.invalid is not None
    assert raw.repair is not None
    assert raw.frame.select(raw.invalid.any()).collect().item()
    with pytest.raises(
        DataError,
        match=r"Line 4 of t\.csv has 3 values instead of 2 \(separator ','\); the last "
        r"one is 'd'\. Enclose values that contain the separator",
    ):
        read_all(raw, bad_rows)
    raw, bad_rows = opened(tmp_path, "u,t\n1,a\n2,b,,\n3,c,d\n4\n", drop=True)
    assert raw.repair is not None
    assert rows(raw.repair()) == [("1", "a"), ("2", "b"), ("4", None)]
    assert bad_rows.counts == {"more than 2 values": 1}


def test_a_header_that_lacks_a_name_is_named_if_all_rows_are_too_long(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"^All 2 rows of t\.csv are bad for the same reason\. Line 2 of t\.csv has 3 values "
        r"instead of 2 .* Check that the header names every column\. Or correct the data\.$",
    ):
        read_all(*opened(tmp_path, "u,t\n1,a,9\n2,b,8\n"))


def test_misplaced_quotation_marks_are_errors_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Line 3 of t\.csv has a double quote inside a quoted"):
        read_all(*opened(tmp_path, 'u,t\n1,a\n2,"b"c"\n3,d\n'))
    raw, bad_rows = opened(tmp_path, 'u,t\n1,a\n2,"b"c"\n3,d\n', drop=True)
    assert rows(raw) == [("1", "a"), ("3", "d")]
    assert bad_rows.counts == {"misplaced quotation marks": 1}


def test_an_unclosed_value_is_an_error_even_if_bad_rows_are_dropped(tmp_path: Path) -> None:
    for drop in (False, True):
        with pytest.raises(DataError, match=r"starts in line 3 and is not closed\. Close it"):
            opened(tmp_path, 'u,t\n1,"a"\n2,"b\n3,c\n', drop=drop)
    with pytest.raises(DataError, match=r"starts in line 2 and is not closed"):
        opened(tmp_path, 'u,t\n1,"a' + "x\n" * 10**5)
