"""Text files: encodings, damaged bytes, and bytes that Polars would misread."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path

import pytest

from mllm_msr.data.reading import text
from mllm_msr.data.reading.records import ReadOptions
from mllm_msr.data.reading.text import TextFile, inspect
from mllm_msr.errors import DataError

TEXT = "id,title\n1,ü€😀\n2,café\n"


@pytest.fixture(params=[1, 2, 3, 1 << 22])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Set the size of blocks, which may split characters and pairs of bytes."""
    monkeypatch.setattr(text, "_BLOCK", request.param)
    return int(request.param)


def check(
    tmp_path: Path, data: bytes, *, encoding: str | None = None, is_json: bool = False
) -> TextFile:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    return inspect(
        path,
        ReadOptions(encoding=encoding),
        separator="" if is_json else ",",
        is_json=is_json,
    )


@pytest.mark.parametrize(
    ("data", "setting", "name"),
    [
        (TEXT.encode(), None, "UTF-8"),
        (TEXT.encode("utf-8-sig"), None, "UTF-8"),
        (TEXT.encode("utf-8-sig"), "utf-8", "UTF-8"),
        # Excel writes a table as "CSV" in Windows-1252 and another as "CSV UTF-8".
        (TEXT.encode("utf-8-sig"), "cp1252", "UTF-8"),
        (TEXT.encode("utf-16"), "cp1252", "UTF-16"),
        (TEXT.encode("utf-16"), None, "UTF-16"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), None, "UTF-16"),
        (TEXT.encode("utf-16-le"), None, "UTF-16-LE"),
        (TEXT.encode("utf-16-be"), None, "UTF-16-BE"),
        (TEXT.encode("utf-32"), None, "UTF-32"),
        (gzip.compress(TEXT.encode(), mtime=0), None, "UTF-8"),
    ],
)
def test_encodings_are_detected(
    tmp_path: Path, block: int, data: bytes, setting: str | None, name: str
) -> None:
    file = check(tmp_path, data, encoding=setting)
    assert file.codec == name
    assert file.is_plain
    with file.text() as decoded:
        assert decoded.read() == TEXT
    converted = file.utf8()
    if isinstance(converted, bytes):
        assert converted.decode() == TEXT
    else:
        assert converted == tmp_path / "t.csv"


def test_the_encoding_can_be_set(tmp_path: Path, block: int) -> None:
    with pytest.raises(
        DataError,
        match=r"t\.csv is not UTF-8: line 3 contains the byte 0xe9\. Save the file as "
        r"UTF-8, or set data\.encoding",
    ):
        check(tmp_path, "id\n1\ncafé\n".encode("latin-1"))
    file = check(tmp_path, "id\n1\ncafé\n".encode("latin-1"), encoding="latin-1")
    assert file.utf8() == "id\n1\ncafé\n".encode()
    assert file.codec == "LATIN-1"


def test_a_wrong_encoding_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(tmp_path, "id\ncafé\n".encode("latin-1"), encoding="latin-1")
    check(tmp_path, b"id\ncafe\n", encoding="latin-1")
    assert not caplog.messages
    check(tmp_path, "id\ncafé\n".encode(), encoding="latin-1")
    assert "t.csv looks like UTF-8, but is read as latin-1" in caplog.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"t\.csv is empty"),
        ("x\né".encode()[:-1], r"not UTF-8: line 2 ends within a character"),
        (b"a,b\n1,\x00\n" + b"x" * 50, r"not a text file: it contains null bytes.*data\.encoding"),
        (
            gzip.compress(b"user,item\n1,2\n" * 1000, mtime=0)[:-20],
            r"Cannot read t\.csv: Compressed file",
        ),
    ],
)
def test_damaged_files_are_an_error(tmp_path: Path, block: int, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check(tmp_path, data)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(DataError, match=f"Cannot read {path.name}"):
            inspect(path, ReadOptions(), is_json=True)


def test_a_file_that_expands_too_much_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_ALWAYS_ALLOWED", 1000)
    data = gzip.compress(b"0" * 10**6)
    with pytest.raises(DataError, match=r"t\.csv expands to more than [\d,]+ bytes"):
        check(tmp_path, data)


@pytest.mark.parametrize(
    ("data", "is_plain"),
    [
        (b'a,"b"\n"1","x""y"\n', True),
        (b'a,"b,\n"\n"","""x"\n', True),
        (b'a,b\n1,""""', True),
        (b"a,b\r\n1,2\r\n", True),
        (b'a,b\n1,x"y\n2,x"z\n', False),
        (b'a,b\n1,"x\n2,y\n', False),
        (b'a,b\n1,"x"y\n', False),
        (b'a,b\n1, "x"\n', False),
        (b"a,b\r1,2\r", False),
        (b"a,b\n1,x\ry\n", False),
    ],
)
def test_quotes_and_line_ends_that_polars_misreads_are_found(
    tmp_path: Path, block: int, data: bytes, is_plain: bool
) -> None:
    assert check(tmp_path, data).is_plain == is_plain


@pytest.mark.parametrize(
    ("data", "has_spaces"),
    [
        (b"a,b\r\n1,\r\n", False),
        (b"a,b\n1, 2\n", True),
        (b"a,b\n1,\t2\n", True),
        ("a,b\n1,\u00a02\n".encode(), True),
        (b"a,b\n1,2\x0b\n", True),
    ],
)
def test_white_space_is_found(tmp_path: Path, block: int, data: bytes, has_spaces: bool) -> None:
    assert check(tmp_path, data).has_spaces == has_spaces


@pytest.mark.parametrize(
    ("line", "is_plain"),
    [
        (rb'{"a":"\ud83d\ude00 and more text"}', True),
        (rb'{"a":"\ud83d and more text"}', False),
        (rb'{"a":"and more text \ude00"}', False),
        (rb'{"a":"\u00e9\n \"quoted\""}', True),
    ],
)
def test_lone_surrogates_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, is_plain: bool
) -> None:
    for size in (1, 7, 30, 1 << 22):
        monkeypatch.setattr(text, "_BLOCK", size)
        assert check(tmp_path, line + b"\n" + b" " * 20, is_json=True).is_plain == is_plain


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"PAR1\x15\x00", "but a Parquet file. Give it the suffix .parquet."),
        (b"PK\x03\x04\x14\x00", "but a ZIP archive or Excel workbook."),
        (b"\xd0\xcf\x11\xe0\xa1", "but an old Excel workbook"),
        (b"BZh91AY", "but compressed with bzip2."),
    ],
)
def test_other_formats_are_recognized(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(DataError, match=r"t\.csv is not a text file, ") as error:
        inspect(tmp_path / "t.csv", ReadOptions(), separator=",")
    assert kind in str(error.value)


def test_latin_1_with_control_characters_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "t.csv").write_bytes("id\nCafé\n".encode("latin-1"))
    inspect(tmp_path / "t.csv", ReadOptions(encoding="latin-1"), separator=",")
    assert not caplog.text
    (tmp_path / "t.csv").write_bytes("id\n5 €\n".encode("cp1252"))
    inspect(tmp_path / "t.csv", ReadOptions(encoding="latin-1"), separator=",")
    assert "t.csv contains control characters in Latin-1" in caplog.text
    assert "data.encoding=cp1252" in caplog.text
