"""Parquet, Excel and data frames."""

from __future__ import annotations

import importlib.util
import zipfile
from datetime import datetime
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

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
    raw = open_excel(path, content="rows")
    assert raw.frame.collect()["id"].to_list() == ["003", "x"]
    assert raw.frame.collect()["at"].to_list() == [datetime(2024, 3, 1, 12)] * 2
    assert (raw.columns, raw.description.format) == (("id", "n", "at"), "Excel")


def test_damaged_and_huge_workbooks_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.xlsx"
    with pytest.raises(DataError, match=r"Cannot read t\.xlsx: No such file"):
        open_excel(path, content="rows")
    path.write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match=r"t\.xlsx is not a valid Excel workbook"):
        open_excel(path, content="rows")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sheet.xml", "x" * 2000)
    monkeypatch.setattr(binary, "_LARGEST_WORKBOOK", 1000)
    with pytest.raises(DataError, match=r"t\.xlsx expands to 2,000 bytes\. Export such a large"):
        open_excel(path, content="rows")


def test_excel_needs_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'fastexcel'.*mllm-msr\[excel\]"):
        open_excel(tmp_path / "t.xlsx", content="rows")


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
