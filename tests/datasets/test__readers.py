import gzip
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.datasets._readers import (
    check_text,
    find_file,
    images_by_stem,
    join_words,
    need_columns,
    need_file,
    scan_table,
    to_items,
)
from mllm_msr.errors import DataError


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder .*nowhere, received nothing .* set data\.path"):
        need_file(tmp_path / "nowhere", "*.csv", what="ratings")


def test_a_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    with pytest.raises(DataError, match="received a file"):
        need_file(tmp_path / "data", "*.csv", what="ratings")


def test_a_missing_file_is_answered_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"with ratings \(r\.csv or r\.dat\).*only notes\.txt"):
        need_file(tmp_path, "r.csv", "r.dat", what="ratings")


def test_patterns_are_tried_in_order_and_must_be_clear(tmp_path: Path) -> None:
    for name in ("b.csv", "a.tsv", "c.tsv"):
        (tmp_path / name).touch()
    assert find_file(tmp_path, "*.csv", "*.tsv") == tmp_path / "b.csv"
    with pytest.raises(DataError, match=r"one file \*\.tsv .* received 2: a\.tsv, c\.tsv"):
        find_file(tmp_path, "*.tsv")
    assert find_file(tmp_path, "*.json") is None


@pytest.mark.parametrize("block", [1, 3, 1 << 22])
def test_bytes_that_are_no_utf8_are_found_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """However the blocks cut the characters."""
    monkeypatch.setattr("mllm_msr.datasets._readers._BLOCK", block)
    path = tmp_path / "t.csv"
    path.write_bytes("id,title\n1,ü€😀\n2,".encode() + b"caf\xe9\n3,x\n")
    with pytest.raises(
        DataError, match=r"UTF-8 in t\.csv, received the byte 0xe9 in line 3.*iconv"
    ):
        check_text(path)
    path.write_bytes("id,title\n1,ü€😀\n".encode())
    check_text(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"received nothing: get the file again"),
        ("x\né".encode()[:-1], r"character cut off at the end of line 2"),
        (b'a,b\n1,"x\n2,y\n', r"a closing double quote .* opened in line 2"),
        (b'a,b\n1,"x"\n2,"y\n', r"opened in line 3"),
    ],
)
def test_faults_of_text_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        scan_table(path)


def test_a_cut_off_gz_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"user,item\n1,2\n" * 1000)[:-20])
    with pytest.raises(DataError, match=r"a readable file t\.csv\.gz.*damaged or incomplete"):
        scan_table(path)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.parquet", "t.jsonl"])
def test_all_kinds_of_tables_say_the_same(tmp_path: Path, name: str) -> None:
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


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").touch()
    with pytest.raises(DataError, match=r"a \.csv, \.tsv.* received t\.xlsx"):
        scan_table(tmp_path / "t.xlsx")


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"a well-formed table in t\.parquet"):
        need_columns(scan_table(tmp_path / "t.parquet"), ["a"], tmp_path / "t.parquet")


def test_missing_columns_are_answered_with_close_names() -> None:
    table = pl.LazyFrame({"UserID": [1], "film": [2]})
    with pytest.raises(
        DataError,
        match=r"columns user_id, item_id in r\.csv, received only UserID, film: .*"
        r"\('UserID' looks like 'user_id'\)",
    ):
        need_columns(table, ["user_id", "item_id"], Path("r.csv"))


def test_images_are_found_by_stem(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.PNG", "3.txt", "a.b.webp"):
        (tmp_path / name).touch()
    assert images_by_stem(tmp_path) == {
        "1": str(tmp_path / "1.jpg"),
        "2": str(tmp_path / "2.PNG"),
        "a.b": str(tmp_path / "a.b.webp"),
    }
    assert images_by_stem(tmp_path / "none") == {}


def _items(*rows: tuple[str | None, str | None]) -> pl.DataFrame:
    schema = {"item_id": pl.String, "title": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        text=pl.lit(None, pl.String)
    )


def test_items_are_tidied() -> None:
    table = _items(("b", "  two\n\twords "), ("a", None), ("b", "  two\n\twords "))
    items = to_items(table, Path("t.csv"), images={"a": "/a.jpg"})
    assert items.rows() == [("b", "two words", "", None), ("a", "", "", "/a.jpg")]


def test_items_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(DataError, match=r"one row per item in t\.csv.*2 rows .* the first 'a'"):
        to_items(_items(("a", "one"), ("a", "other")), Path("t.csv"), images={})


def test_an_item_without_an_id_is_refused() -> None:
    with pytest.raises(DataError, match=r"an item id .* 1 rows without one, the first is row 2"):
        to_items(_items(("a", "one"), (None, "other")), Path("t.csv"), images={})


def test_joined_parts_are_sentences() -> None:
    assert join_words(["Soft toy", "", "Is it? Yes!", "Red."]) == "Soft toy. Is it? Yes! Red."
