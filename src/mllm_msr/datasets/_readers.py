"""Readers shared by the datasets: find files, check them, read tables and report errors.

Text files are checked before Polars reads them, because Polars reports an invalid byte or an
unclosed quotation mark far from its cause, or not at all.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import polars as pl

from mllm_msr.errors import DataError
from mllm_msr.storage.uri import require_local

_SEPARATORS: Final = {".csv": ",", ".tsv": "\t"}
_BLOCK: Final = 1 << 22  # bytes


def require_folder(path: Path) -> Path:
    """Return the absolute path of a folder that must exist.

    Raises:
        DataError: The folder does not exist or is a file.
        RunFolderError: The path is in object storage.
    """
    if not require_local(path).is_dir():
        problem = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError(
            f"The dataset folder {path} {problem}. "
            "Set data.path to the folder with the files of the dataset."
        )
    return path.absolute()


def find_file(folder: Path, *patterns: str) -> Path | None:
    """Return the file that matches the first pattern with a match, `None` if there is none.

    Raises:
        DataError: Several files match one pattern.
    """
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            raise DataError(
                f"{len(found)} files in {folder} match {pattern}, but only one is allowed: "
                f"{', '.join(path.name for path in found)}. Move the others to another folder."
            )
        if found:
            return found[0]
    return None


def require_file(folder: Path, *patterns: str, content: str) -> Path:
    """Return the file that matches the first pattern with a match; there must be one.

    Args:
        folder: Folder to search.
        patterns: File names with wildcards, in order of preference.
        content: What the file contains, for error messages ("ratings").

    Raises:
        DataError: No file matches, or several match one pattern.
    """
    found = find_file(require_folder(folder), *patterns)
    if found is None:
        present = ", ".join(sorted(path.name for path in folder.iterdir())[:10])
        raise DataError(
            f"{folder} has no file with {content} ({' or '.join(patterns)}). "
            f"{f'It contains {present}' if present else 'It is empty'}. "
            "Copy the file there or set data.path to the folder that contains it."
        )
    return found


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading bytes; decompress it if its name ends in .gz."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def check_text(path: Path, *, quoted: bool = True) -> None:
    """Read a text file once to find errors that table readers report poorly.

    Args:
        path: Text file, possibly compressed (.gz).
        quoted: Whether double quotes enclose values, so that each one must be closed.

    Raises:
        DataError: The file is empty, damaged, not UTF-8, or has an unclosed quotation mark.
    """
    n_quotes = n_lines = n_bytes = 0
    rest = b""  # bytes of a character that continues in the next block
    with wrap_gzip_errors(path), open_binary(path) as file:
        while block := file.read(_BLOCK):
            n_bytes += len(block)
            n_quotes += block.count(b'"')
            rest, lines = _check_utf8(rest + block, path, n_lines=n_lines)
            n_lines += lines
    if rest or not n_bytes:
        problem = f"ends within a character of line {n_lines + 1}" if rest else "is empty"
        raise DataError(f"{path.name} {problem}. The file is incomplete; download it again.")
    # Only an odd number of quotes can be unclosed. Parsing every file by line would be too slow.
    if quoted and n_quotes % 2:
        _check_quotes(path)


def scan_table(path: Path) -> pl.LazyFrame:
    """Return the lazy table of a CSV, TSV, Parquet or JSON Lines file.

    Values of text files are strings.

    Raises:
        DataError: The file is damaged or has another format.
    """
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    suffix = suffixes[-1].lower() if suffixes else ""
    with wrap_table_errors(path):
        if suffix in _SEPARATORS:
            check_text(path)
            return pl.scan_csv(path, separator=_SEPARATORS[suffix], infer_schema=False)
        if suffix in {".jsonl", ".ndjson", ".json"}:
            check_text(path, quoted=False)
            return pl.scan_ndjson(path, infer_schema_length=10_000)
        if suffix == ".parquet":
            return pl.scan_parquet(path)
    raise DataError(
        f"{path.name} has an unsupported format. Convert it to .csv, .tsv, .parquet or .jsonl."
    )


@contextmanager
def wrap_table_errors(path: Path) -> Iterator[None]:
    """Convert errors of Polars to a `DataError` that names the file."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as cause:
        detail = (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(".")
        raise DataError(
            f"{path.name} is not a well-formed table: {detail}. Fix the file. In CSV and TSV, "
            "enclose values that contain separators or quotation marks in double quotes, and write "
            'a double quote inside such a value as "".'
        ) from cause


@contextmanager
def wrap_gzip_errors(path: Path) -> Iterator[None]:
    """Convert errors of a damaged .gz file to a `DataError` that names the file."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, OSError) as cause:
        detail = (str(cause) or type(cause).__name__).rstrip(".")
        raise DataError(
            f"Cannot read {path.name}: {detail}. The file is damaged or incomplete; "
            "download it again."
        ) from cause


def require_columns(table: pl.LazyFrame, wanted: Iterable[str], path: Path) -> list[str]:
    """Return all columns of a table, which must include the wanted ones.

    Raises:
        DataError: Columns are missing; the message lists those present and suggests close names.
    """
    with wrap_table_errors(path):
        present = table.collect_schema().names()
    missing = [column for column in wanted if column not in present]
    if missing:
        by_lower_case = {column.strip().lower(): column for column in present}
        hints = [
            f"{by_lower_case[close[0]]!r} is similar to {column!r}"
            for column in missing
            if (close := difflib.get_close_matches(column.lower(), by_lower_case, 1, cutoff=0.5))
        ]
        hint = f" ({'; '.join(hints)})" if hints else ""
        raise DataError(
            f"{path.name} has no column{'s' * (len(missing) > 1)} {', '.join(missing)}. Its "
            f"columns are {', '.join(present)}{hint}. Rename the columns in the file, or set "
            "their names if the dataset has settings for them."
        )
    return present


def _check_utf8(block: bytes, path: Path, *, n_lines: int) -> tuple[bytes, int]:
    """Check that a block of a file is UTF-8.

    Args:
        block: Bytes of the file, starting at a character.
        path: The file, for error messages.
        n_lines: Number of lines that end before the block.

    Returns:
        The bytes of an incomplete character at the end of the block, and the number of lines that
        end in the block.
    """
    try:
        block.decode()
    except UnicodeDecodeError as fault:
        if fault.reason == "unexpected end of data":
            return block[fault.start :], block.count(b"\n")
        line = n_lines + block.count(b"\n", 0, fault.start) + 1
        raise DataError(
            f"{path.name} is not UTF-8: line {line} contains the byte 0x{block[fault.start]:02x}. "
            "Convert the file, for example with: iconv -f LATIN1 -t UTF-8."
        ) from fault
    return b"", block.count(b"\n")


def _check_quotes(path: Path) -> None:
    """Raise `DataError` if a quoted value is not closed."""
    last_line = 0
    separator = _SEPARATORS.get(next((s for s in path.suffixes if s in _SEPARATORS), ".csv"), ",")
    with open_binary(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        reader = csv.reader(text, delimiter=separator, strict=True)
        try:
            for _ in reader:
                last_line = reader.line_num
        except csv.Error as cause:
            raise DataError(
                f"{path.name} has a quoted value that starts in line {last_line + 1} and is not "
                'closed. Close it, and write a double quote inside a quoted value as "".'
            ) from cause
