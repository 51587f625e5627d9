"""Parquet, Excel and data frames."""

from __future__ import annotations

import importlib.util
import zipfile
from datetime import datetime
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter

from mllm_msr.data.reading import binary
from mllm_msr.data.reading.binary import open_excel, open_frame, open_parquet
from mllm_msr.errors import DataError, MissingExtraError

FRAME = pl.DataFrame({"id": ["003", "x"], "n": [1.0, None], "at": [datetime(2024, 3, 1, 12)] * 2})


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "t[1].parquet")
    raw = open_parquet(tmp_path / "t[1].parquet", ["id"], content="rows")
    assert raw.frame.collect().equals(FRAME)
    assert (raw.columns, raw.description.format) == (("id", "n", "at"), "Parquet")


@pytest.mark.parametrize("damage", ["text", "cut", "flip", "missing"])
def test_damaged_parquet_is_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "t.parquet"
    FRAME.write_parquet(path)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flip":
        path.write_bytes(data[:4] + bytes(byte ^ 0xFF for byte in data[4:60]) + data[60:])
    else:
        path.write_bytes(b"<html>" if damage == "text" else data[:-20])
    with pytest.raises(DataError, match=r"t\.parquet(: No such file| is not a valid Parquet file)"):
        open_parquet(path, FRAME.columns, content="rows")


def test_excel_reads_the_first_sheet(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    FRAME.write_excel(path)
    raw = open_excel(path, [], content="rows")
    assert raw.frame.collect()["id"].to_list() == ["003", "x"]
    assert raw.frame.collect()["at"].to_list() == [datetime(2024, 3, 1, 12)] * 2
    assert (raw.columns, raw.description.format) == (("id", "n", "at"), "Excel")


def test_damaged_and_huge_workbooks_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.xlsx"
    with pytest.raises(DataError, match=r"Cannot read t\.xlsx: No such file"):
        open_excel(path, [], content="rows")
    path.write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match=r"t\.xlsx is not a valid Excel workbook"):
        open_excel(path, [], content="rows")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sheet.xml", "x" * 2000)
    monkeypatch.setattr(binary, "_LARGEST_WORKBOOK", 1000)
    with pytest.raises(DataError, match=r"t\.xlsx expands to 2,000 bytes\. Export such a large"):
        open_excel(path, [], content="rows")


def workbook(path: Path, rows: list[list[object]], *, title: bool = False) -> Path:
    with xlsxwriter.Workbook(path) as book:
        if title:
            book.add_worksheet("Notes")
        sheet = book.add_worksheet()
        for number, row in enumerate(rows):
            sheet.write_row(number + 3, 2, row)
    return path


def test_excel_tables_may_start_anywhere_and_have_columns_without_a_name(tmp_path: Path) -> None:
    path = workbook(tmp_path / "t.xlsx", [["id", None, "n"], [7, "note", None], ["x", None, None]])
    raw = open_excel(path, ["id"], content="rows")
    assert raw.frame.collect()["id"].to_list() == ["7", "x"]
    assert [name.strip() for name in raw.columns] == ["id", "", "n"]


def test_excel_warns_about_nothing_that_users_can_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_excel(workbook(tmp_path / "t.xlsx", [["id", "n"], ["x", None]]), [], content="rows")
    assert not caplog.records


def test_repeated_columns_and_empty_first_sheets_are_errors(tmp_path: Path) -> None:
    path = workbook(tmp_path / "t.xlsx", [["id", "n", "id"], [1, 2, 3]])
    with pytest.raises(DataError, match=r"t\.xlsx has 2 columns with the name 'id'"):
        open_excel(path, ["id"], content="rows")
    assert open_excel(path, ["n"], content="rows").columns == ("id", "n", "id_1")
    path = workbook(path, [["id"]], title=True)
    with pytest.raises(DataError, match=r"first sheet of t\.xlsx, 'Notes', is empty\. Move the"):
        open_excel(path, ["id"], content="rows")
    repeated = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["id", "id"])
    pq.write_table(repeated, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet has 2 columns with the name 'id'"):
        open_parquet(tmp_path / "t.parquet", ["id"], content="rows")
    frame = pd.DataFrame([[1, 2]], columns=["id", "id"])
    with pytest.raises(DataError, match="The data frame of rows has 2 columns with the name 'id'"):
        open_frame(frame, ["id"], content="rows")


def test_excel_needs_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'fastexcel'.*mllm-msr\[excel\]"):
        open_excel(tmp_path / "t.xlsx", [], content="rows")


def test_frames_of_polars_and_pandas() -> None:
    for frame in (FRAME, FRAME.lazy(), FRAME.to_pandas()):
        raw = open_frame(frame, FRAME.columns, content="rows")
        found = raw.frame.collect()
        assert found["id"].to_list() == ["003", "x"]
        assert found["at"].to_list() == [datetime(2024, 3, 1, 12)] * 2
        assert raw.columns == ("id", "n", "at")


def test_objects_of_pandas_become_texts() -> None:
    frame = pd.DataFrame({"id": pd.Series(["003", 5, 1.0, None], dtype=object), 7: [1, 2, 3, 4]})
    raw = open_frame(frame, ["id"], content="rows")
    assert raw.frame.collect()["id"].to_list() == ["003", "5", "1", None]
    assert raw.columns == ("id", "7")


def test_nested_values_of_pandas_are_an_error() -> None:
    frame = pd.DataFrame({"id": ["a", ["b"]]})
    with pytest.raises(DataError, match=r"column id .* contains a list in row 2: \['b'\]\. Conv"):
        open_frame(frame, ["id"], content="rows")


def test_other_values_are_an_error() -> None:
    with pytest.raises(DataError, match=r"of the type dict is not a table\. Give a path or a data"):
        open_frame({"id": [1]}, ["id"], content="rows")
