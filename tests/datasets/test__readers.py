"""Readers: files and folders, text checks, table formats, columns."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.datasets._readers import (
    check_text,
    find_file,
    require_columns,
    require_file,
    scan_table,
)
from mllm_msr.errors import DataError


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder .*nowhere does not exist\. Set data\.path"):
        require_file(tmp_path / "nowhere", "*.csv", content="ratings")


def test_a_file_instead_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    with pytest.raises(DataError, match="data is a file, not a folder"):
        require_file(tmp_path / "data", "*.csv", content="ratings")


def test_a_missing_file_is_an_error_that_lists_the_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        DataError, match=r"no file with ratings \(r\.csv or r\.dat\)\. It contains notes\.txt"
    ):
        require_file(tmp_path, "r.csv", "r.dat", content="ratings")


def test_patterns_are_tried_in_order_and_must_match_one_file(tmp_path: Path) -> None:
    for name in ("b.csv", "a.tsv", "c.tsv"):
        (tmp_path / name).touch()
    assert find_file(tmp_path, "*.csv", "*.tsv") == tmp_path / "b.csv"
    with pytest.raises(DataError, match=r"2 files .* match \*\.tsv.*: a\.tsv, c\.tsv"):
        find_file(tmp_path, "*.tsv")
    assert find_file(tmp_path, "*.json") is None


@pytest.mark.parametrize("block", [1, 3, 1 << 22])
def test_invalid_utf8_is_an_error_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Check blocks that split characters as well."""
    monkeypatch.setattr("mllm_msr.datasets._readers._BLOCK", block)
    path = tmp_path / "t.csv"
    path.write_bytes("id,title\n1,ü€😀\n2,".encode() + b"caf\xe9\n3,x\n")
    with pytest.raises(
        DataError, match=r"t\.csv is not UTF-8: line 3 contains the byte 0xe9.*iconv"
    ):
        check_text(path)
    path.write_bytes("id,title\n1,ü€😀\n".encode())
    check_text(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"t\.csv is empty\. .* download it again"),
        ("x\né".encode()[:-1], r"ends within a character of line 2"),
        (b'a,b\n1,"x\n2,y\n', r"quoted value that starts in line 2 and is not closed"),
        (b'a,b\n1,"x"\n2,"y\n', r"starts in line 3"),
    ],
)
def test_damaged_text_files_are_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        scan_table(path)


def test_a_truncated_gz_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"user,item\n1,2\n" * 1000)[:-20])
    with pytest.raises(DataError, match=r"Cannot read t\.csv\.gz.*damaged or incomplete"):
        scan_table(path)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.parquet", "t.jsonl"])
def test_all_formats_give_the_same_table(tmp_path: Path, name: str) -> None:
    frame = pl.DataFrame({"user": ["1", "ü"], "title": ['say "hi", you', "two\nlines"]})
    path = tmp_path / name
    if name == "t.csv.gz":
        path.write_bytes(gzip.compress(frame.write_csv().encode()))
    elif name == "t.tsv":
        frame.write_csv(path, separator="\t")
    else:
        write = {"csv": "write_csv", "parquet": "write_parquet", "jsonl": "write_ndjson"}
        getattr(frame, write[name.split(".")[1]])(path)
    assert scan_table(path).collect().equals(frame)


def test_other_formats_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").touch()
    with pytest.raises(DataError, match=r"t\.xlsx has an unsupported format\. Convert it to \.csv"):
        scan_table(tmp_path / "t.xlsx")


def test_an_invalid_parquet_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"t\.parquet is not a well-formed table"):
        require_columns(scan_table(tmp_path / "t.parquet"), ["a"], tmp_path / "t.parquet")


def test_missing_columns_are_an_error_that_suggests_close_names() -> None:
    table = pl.LazyFrame({"UserID": [1], "film": [2]})
    with pytest.raises(
        DataError,
        match=r"r\.csv has no columns user_id, item_id\. Its columns are UserID, film "
        r"\('UserID' is similar to 'user_id'\)",
    ):
        require_columns(table, ["user_id", "item_id"], Path("r.csv"))
