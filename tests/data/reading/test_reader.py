"""One reader for all formats: equal tables from equal data, and no bytes that break it."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import xlsxwriter
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mllm_msr.data.reading.reader import read_table
from mllm_msr.data.reading.records import Column, ReadOptions, TableRead
from mllm_msr.errors import DataError, MllmMsrError

COLUMNS = {
    "user_id": Column("user", "id", setting="data.user_column"),
    "item_id": Column("item", "id"),
    "rating": Column("rating", "number"),
    "title": Column("title", "text", required=False),
    "time": Column("time", "integer", required=False),
}
DATA = pl.DataFrame(
    {
        "user": ["003", "3", "1e5", "ü"],
        "item": ["00123", "v1", "x/y", "7"],
        "rating": [4.5, 1.0, -0.25, 3.0],
        "title": ['say "hi", you; now', "café\tau lait", None, "two | three"],
        "time": [1_700_000_000_123, 9_007_199_254_740_993, 0, -5],
        "other": ["a", "b", "c", "d"],
    }
)
ROWS = DATA.select(*(column.source for column in COLUMNS.values())).rows()


def csv(separator: str = ",", *, decimal_comma: bool = False) -> bytes:
    return DATA.write_csv(separator=separator, decimal_comma=decimal_comma).encode()


def shuffled_columns() -> bytes:
    return DATA.select(random.Random(3).sample(DATA.columns, DATA.width)).write_csv().encode()


def excel() -> bytes:
    # Excel has no integers of 64 bits.
    file = io.BytesIO()
    DATA.with_columns(pl.col("time").cast(pl.String)).write_excel(file)
    return file.getvalue()


def parquet() -> bytes:
    file = io.BytesIO()
    DATA.write_parquet(file)
    return file.getvalue()


SAME: dict[str, tuple[str, Callable[[], bytes], ReadOptions]] = {
    "CSV": ("t.csv", csv, ReadOptions()),
    "other order of columns": ("t.csv", shuffled_columns, ReadOptions()),
    "spaces in the header": ("t.csv", lambda: b" user" + csv()[4:], ReadOptions()),
    "spaces around ids": ("t.csv", lambda: csv().replace(b"003,", b" 003 ,"), ReadOptions()),
    "blank lines": ("t.csv", lambda: csv() + b"\n\n,,,,,\n\r\n", ReadOptions()),
    "trailing separators": ("t.csv", lambda: csv().replace(b"\n", b",,\n"), ReadOptions()),
    "CRLF": ("t.csv", lambda: csv().replace(b"\n", b"\r\n"), ReadOptions()),
    "CR": ("t.csv", lambda: csv().replace(b"\n", b"\r"), ReadOptions()),
    "semicolons": ("t.csv", lambda: csv(";"), ReadOptions()),
    "semicolons, decimal commas": ("t.csv", lambda: csv(";", decimal_comma=True), ReadOptions()),
    "decimal commas": (
        "t.csv",
        lambda: csv().replace(b"4.5", b'"4,5"').replace(b"-0.25", b'"-0,25"'),
        ReadOptions(decimal_comma=True),
    ),
    "separator named": ("t.csv", lambda: b"sep=;\r\n" + csv(";"), ReadOptions()),
    "separator named, UTF-16": (
        "t.csv",
        lambda: '"sep=\t"\n'.encode("utf-16") + csv("\t").decode().encode("utf-16-le"),
        ReadOptions(),
    ),
    "TSV": ("t.tsv", lambda: csv("\t"), ReadOptions()),
    "TSV with the wrong suffix": ("t.csv", lambda: csv("\t"), ReadOptions()),
    "CSV with the wrong suffix": ("t.tsv", csv, ReadOptions()),
    "bars": ("t.txt", lambda: csv("|"), ReadOptions()),
    "several compressed parts": (
        "t.csv.gz",
        lambda: gzip.compress(csv()[:40]) + gzip.compress(csv()[40:]),
        ReadOptions(),
    ),
    "carets": ("t.csv", lambda: csv("^"), ReadOptions(separator="^")),
    "JSON Lines": ("t.jsonl", lambda: DATA.write_ndjson().encode(), ReadOptions()),
    "JSON Lines, UTF-16": (
        "t.jsonl",
        lambda: DATA.write_ndjson().encode("utf-16"),
        ReadOptions(),
    ),
    "JSON Lines with a mark": (
        "t.json",
        lambda: DATA.write_ndjson().encode("utf-8-sig"),
        ReadOptions(),
    ),
    "JSON Lines, compressed": (
        "t.jsonl.gz",
        lambda: gzip.compress(DATA.write_ndjson().encode()),
        ReadOptions(),
    ),
    "Parquet": ("t.parquet", parquet, ReadOptions()),
    "Excel": ("t.xlsx", excel, ReadOptions()),
    "UTF-16": ("t.csv", lambda: csv().decode().encode("utf-16"), ReadOptions()),
    "UTF-16, semicolons": ("t.csv", lambda: csv(";").decode().encode("utf-16-be"), ReadOptions()),
    "latin-1": (
        "t.csv",
        lambda: csv().decode().encode("latin-1"),
        ReadOptions(encoding="latin-1"),
    ),
    "byte order mark": ("t.csv", lambda: csv().decode().encode("utf-8-sig"), ReadOptions()),
    "compressed": ("t.csv.gz", lambda: gzip.compress(csv()), ReadOptions()),
    "compressed UTF-16": (
        "t.csv.gz",
        lambda: gzip.compress(csv().decode().encode("utf-16")),
        ReadOptions(),
    ),
    "brackets in the name": ("log[2024]*.csv", csv, ReadOptions()),
    "brackets in the name of JSON": (
        "log[2024]?.jsonl",
        lambda: DATA.write_ndjson().encode(),
        ReadOptions(),
    ),
}


def read(path: Path, **options: object) -> TableRead:
    return read_table(path, COLUMNS, options=ReadOptions(**options), content="rows")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SAME)
def test_the_same_data_give_the_same_table(tmp_path: Path, name: str) -> None:
    file, write, options = SAME[name]
    (tmp_path / file).write_bytes(write())
    table = read_table(tmp_path / file, COLUMNS, options=options)
    assert table.frame.collect().rows() == ROWS
    assert table.frame.collect(engine="streaming").schema == {
        "user_id": pl.String(),
        "item_id": pl.String(),
        "rating": pl.Float64(),
        "title": pl.String(),
        "time": pl.Int64(),
    }
    found = table.description
    assert (found.path, found.n_rows, found.dropped) == (tmp_path / file, 4, {})
    assert found.columns == {name: column.source for name, column in COLUMNS.items()}
    assert found.ignored == ("other",)
    assert found.decimal_comma == ("decimal commas" in name)


@pytest.mark.parametrize("convert", [lambda f: f, pl.DataFrame.lazy, pl.DataFrame.to_pandas])
def test_data_frames_give_the_same_table(convert: Callable[[pl.DataFrame], object]) -> None:
    table = read_table(convert(DATA), COLUMNS, content="ratings")
    assert table.frame.collect().rows() == ROWS
    with pytest.raises(DataError, match=r"Data row 4 of the data frame of ratings has -5"):
        read_table(
            convert(DATA),
            {"time": Column("time", "value", convert=lambda v, _: pl.when(v >= 0).then(v))},
            content="ratings",
        )


def test_settings_may_repeat_the_spaces_of_a_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(" user ,item\na,x\n")
    table = read_table(tmp_path / "t.csv", {"u": Column(" user ", "id"), "i": Column("item", "id")})
    assert table.frame.collect().rows() == [("a", "x")]
    assert table.description.columns == {"u": " user ", "i": "item"}


@pytest.mark.parametrize("kind", ["csv", "quotes", "parquet", "xlsx"])
@pytest.mark.parametrize(("header", "name"), [("cle\u0301", "clé"), ("clé\u200b", "cle\u0301")])
def test_accents_of_headers_may_be_composed_or_not(
    tmp_path: Path, kind: str, header: str, name: str
) -> None:
    path = tmp_path / f"t.{kind.replace('quotes', 'csv')}"
    frame = pl.DataFrame({header: ["a"], "item": ["x"]})
    if kind in {"csv", "quotes"}:
        # Misplaced quotation marks need the slow reader.
        path.write_text(frame.write_csv() + 'b,12"\n' * (kind == "quotes"), encoding="utf-8")
    else:
        getattr(frame, {"parquet": "write_parquet", "xlsx": "write_excel"}[kind])(path)
    table = read_table(path, {"u": Column(name, "id"), "i": Column("item", "id")})
    assert table.frame.head(1).collect().rows() == [("a", "x")]
    assert table.description.ignored == ()


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet", "t.xlsx", "t.csv.gz"])
def test_bad_rows_are_counted_alike_in_every_format(tmp_path: Path, name: str) -> None:
    bad = pl.DataFrame(
        {
            "user": ["a", None, "  ", "b", "c"],
            "item": ["x", "y", "z", None, "w"],
            "rating": ["1", "2", "3", "4", "many"],
        }
    )
    path = tmp_path / name
    if name == "t.csv.gz":
        path.write_bytes(gzip.compress(bad.write_csv().encode()))
    else:
        write = {".parquet": bad.write_parquet, ".xlsx": bad.write_excel, ".csv": bad.write_csv}
        write |= {".jsonl": bad.write_ndjson, ".tsv": lambda p: bad.write_csv(p, separator="\t")}
        write[path.suffix](path)
    table = read(path, on_bad_rows="drop")
    assert table.frame.collect().rows() == [("a", "x", 1.0, None, None)]
    assert table.description.dropped == {"no user": 2, "no item": 1, "invalid rating": 1}
    assert table.description.n_rows == 5
    with pytest.raises(DataError, match=rf"^Data row 2 of {path.name} has no value in the column"):
        read(path)


def test_aggregates_are_computed_over_the_remaining_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,item,rating\na,x,1\n,y,9\nb,z,3\n")
    table = read_table(
        tmp_path / "t.csv",
        COLUMNS,
        options=ReadOptions(on_bad_rows="drop"),
        aggregates={"top": pl.col("rating").max(), "n": pl.len()},
    )
    assert table.aggregates == {"top": 3.0, "n": 2}


def test_unreadable_lines_and_bad_values_are_counted_together(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,item,rating\na,x,1,2\n,y,9\nb,z,3\n")
    table = read(tmp_path / "t.csv", on_bad_rows="drop")
    assert table.description.dropped == {"more than 3 values": 1, "no user": 1}
    assert table.description.n_rows == 3


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.parquet"])
def test_dropping_is_suggested_only_if_rows_remain(tmp_path: Path, name: str) -> None:
    def message(*ratings: str) -> str:
        n = len(ratings)
        frame = pl.DataFrame({"user": ["a"] * n, "item": ["x"] * n, "rating": ratings})
        if name == "t.csv.gz":  # read without Polars
            (tmp_path / name).write_bytes(gzip.compress(frame.write_csv().encode()))
        else:
            kind = {"csv": "csv", "jsonl": "ndjson", "parquet": "parquet"}[name.split(".")[1]]
            getattr(frame, f"write_{kind}")(tmp_path / name)
        with pytest.raises(DataError) as fault:
            read(tmp_path / name)
        return str(fault.value)

    some, every, one = message("many", "few", "3"), message("many", "few"), message("many")
    assert "which is not a finite number (2 of 3 rows). Correct" in some
    assert "data.on_bad_rows=drop" in some
    assert every.startswith(f"All 2 rows of {name} are bad for the same reason. ")
    assert one.startswith(f"The only row of {name} is bad. ")
    assert "on_bad_rows" not in every + one


def test_dropping_all_rows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,item,rating\na,x,1,2\n,y,9\nb,z,many\n")
    for on_bad_rows in ("error", "drop"):
        with pytest.raises(
            DataError,
            match=r"^All 3 rows of t\.csv are bad, 1 of them for this reason: Line 2 of .* has 4",
        ):
            read(tmp_path / "t.csv", on_bad_rows=on_bad_rows)
    (tmp_path / "t.csv").write_text("user,item,rating\n,y,9\nb,z,many\nc,z,few\n")
    with pytest.raises(DataError, match=r"are bad, 2 of them for this reason: .*'many'"):
        read(tmp_path / "t.csv", on_bad_rows="drop")  # the most frequent reason
    (tmp_path / "t.csv").write_text("user,item,rating\n\n\n")
    assert read(tmp_path / "t.csv", on_bad_rows="drop").description.n_rows == 0


def test_missing_columns_are_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("User,film,rating\na,x,1\n")
    with pytest.raises(
        DataError,
        match=r"t\.csv has no columns user, item\. Its columns are User, film, rating \(separator "
        r"',', see data\.separator\); 'User' is similar to 'user'.*\. Rename .* data\.user_column",
    ):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("t.csv", r"t\.csv does not exist\. Pass the path of a table"),
        ("empty.csv", r"empty\.csv is empty\. Copy or download"),
        ("empty.jsonl", r"empty\.jsonl is empty\. Copy or download"),
        ("empty.parquet", r"empty\.parquet is not a valid Parquet file"),
        ("empty.xlsx", r"empty\.xlsx is not a valid Excel workbook"),
        ("t.doc", r"t\.doc has an unsupported format\. Decompress it, or convert it to \.csv"),
        ("s3://bucket/t.csv", r"pull"),
    ],
)
def test_files_that_cannot_be_read_are_errors(tmp_path: Path, name: str, message: str) -> None:
    if name.startswith(("empty", "t.doc")):
        (tmp_path / name).touch()
    with pytest.raises(MllmMsrError, match=message):
        read(Path(name) if "://" in name else tmp_path / name)


def test_settings_are_named_only_where_there_are_some(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for data in (
        b"user,item\n",
        b"user,item,rating\na,b,\nc,d,1\n",
        b"\xff",
        b'user,item,rating\na,b,"4,5"',
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"data\.[a-z]"):
            read(path)
        with pytest.raises(DataError) as caught:
            read_table(path, COLUMNS | {"user_id": Column("user", "id")})
        assert not re.search(r"data\.[a-z]", str(caught.value))


_VALUES = st.sampled_from(
    ["user", "item", "rating", "a", "1", "2.5", "4,5", '"', '""', "é", "\x00", "\ufeff", "\\ud800",
     "{", "}", "[", "]", ":", "null", "NaN", "true", '{"user":', '"item":1}', "1e999"]
)  # fmt: skip
_TEXTS = st.lists(
    st.one_of(_VALUES, st.sampled_from([",", ";", "\t", "|", "\n", "\r\n", "\r"])), max_size=40
).map("".join)
_TABLES = st.one_of(
    st.binary(max_size=300),
    st.tuples(_TEXTS, st.sampled_from(["utf-8", "utf-16", "utf-8-sig", "utf-16-be"])).map(
        lambda pair: pair[0].encode(pair[1])
    ),
    st.tuples(st.sampled_from(",;\t|"), _TEXTS).map(
        lambda pair: f"user{pair[0]}item{pair[0]}rating\n{pair[1]}".encode()
    ),
    # Valid files with some bytes changed.
    st.tuples(
        st.sampled_from([csv(), parquet(), excel(), gzip.compress(csv())]),
        st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=5),
    ).map(
        lambda pair: bytes(
            {place % len(pair[0]): new for place, new in pair[1]}.get(index, byte)
            for index, byte in enumerate(pair[0])
        )
    ),
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=_TABLES,
    suffix=st.sampled_from([".csv", ".tsv", ".txt", ".jsonl", ".parquet", ".xlsx", ".csv.gz"]),
    encoding=st.sampled_from([None, None, "latin-1", "utf-16"]),
    drop=st.booleans(),
)
@example(data=b'{"user":' + b"[" * 100_000, suffix=".jsonl", encoding=None, drop=True)
@example(data=b"\x1f\x8b" + b"x" * 100, suffix=".csv", encoding=None, drop=False)
def test_any_bytes_give_a_table_or_one_error(
    tmp_path: Path, data: bytes, suffix: str, encoding: str | None, drop: bool
) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes(data)
    try:
        table = read(path, encoding=encoding, on_bad_rows="drop" if drop else "error")
    except MllmMsrError as error:
        message = str(error)
        assert path.name in message
        assert len(message) < 2000
        assert not any(word in message.lower() for word in ("polars", "arrow", "schema", "dtype"))
    else:
        rows = table.frame.collect()
        assert table.description.n_rows == rows.height + sum(table.description.dropped.values())
        assert rows["user_id"].null_count() == 0


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize(
    "unit",
    [
        "a,", ",", '"', '"",', "a\n", "\r", "\n", "a;b|c\t", '"x"y,', "[", '{"user":', "\\ud800",
        "9", '{"user":"[x]","item":1.5}\n',
    ],
)  # fmt: skip
def test_the_time_is_linear(tmp_path: Path, unit: str, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"

    def seconds(n: int) -> float:
        path.write_text("user,item,rating\n" * (suffix == ".csv") + unit * n)
        start = time.process_time()
        with contextlib.suppress(DataError):
            read(path, on_bad_rows="drop").frame.collect()
        return time.process_time() - start

    seconds(1000)
    # Thirty times more text, with room for noise and for constant costs.
    assert seconds(300_000) < 60 * max(seconds(10_000), 0.02)


def test_a_first_row_that_is_no_header_is_explained(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,x,1\n")
    with pytest.raises(DataError, match=r"If these are not names of columns, move the header to"):
        read(tmp_path / "t.csv")
    pl.DataFrame({"Export of shop": ["a"]}).write_excel(tmp_path / "t.xlsx")
    with pytest.raises(DataError, match=r"columns are Export of shop \(first sheet\)\. If these"):
        read(tmp_path / "t.xlsx")


@pytest.mark.parametrize("number", [12_345_678_901_234_567, 12_345_678_901_234_567_890])
def test_ids_that_excel_has_rounded_are_an_error(tmp_path: Path, number: int) -> None:
    with xlsxwriter.Workbook(tmp_path / "t.xlsx") as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["user", "item", "rating"])
        sheet.write_row(1, 0, ["a", number, 1])
    with pytest.raises(DataError, match=r"has lost digits\. Store the ids as text"):
        read(tmp_path / "t.xlsx")


@pytest.mark.parametrize("name", ["nowhere", "nowhere.csv", "folder.csv", "pipe.jsonl"])
def test_what_is_no_file_is_named_before_its_format(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match=rf"{name} (does not exist|is not a regular file)\."):
        read_table(tmp_path / name, {})
