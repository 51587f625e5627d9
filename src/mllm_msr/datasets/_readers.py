"""What the data sets share: finding files, reading tables, and saying what is wrong with them.

A file is checked before Polars reads it, because a stray byte or an open quotation mark
otherwise surfaces far from its cause, or not at all.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import polars as pl

from mllm_msr.errors import DataError
from mllm_msr.storage.uri import require_local
from mllm_msr.tables import ITEMS, conform

_IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif")
_SEPARATORS: Final = {".csv": ",", ".tsv": "\t"}
_BLOCK: Final = 1 << 22


def need_folder(path: Path) -> Path:
    """The folder itself, absolute.

    Raises:
        DataError: It does not exist or is no folder.
        RunFolderError: It is in object storage.
    """
    if not require_local(path).is_dir():
        raise DataError(
            needed=f"the data set's folder {path}",
            received="a file" if path.exists() else "nothing of that name",
            remedy="set data.path to the folder that holds the data set's files",
        )
    return path.absolute()


def find_file(folder: Path, *patterns: str) -> Path | None:
    """The one file that matches the first pattern that matches any.

    Raises:
        DataError: Several files match one pattern.
    """
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            raise DataError(
                needed=f"one file {pattern} in {folder}",
                received=f"{len(found)}: {', '.join(path.name for path in found)}",
                remedy="leave one there or move the others to a folder of their own",
            )
        if found:
            return found[0]
    return None


def need_file(folder: Path, *patterns: str, what: str) -> Path:
    """Like `find_file`, but there must be one.

    Args:
        folder: Where to look.
        patterns: Names with wildcards, in order of preference.
        what: What the file holds, for the message.

    Raises:
        DataError: No file matches, or several match one pattern.
    """
    found = find_file(need_folder(folder), *patterns)
    if found is None:
        present = sorted(path.name for path in folder.iterdir())[:10]
        raise DataError(
            needed=f"a file with {what} ({' or '.join(patterns)}) in {folder}",
            received=f"only {', '.join(present)}" if present else "an empty folder",
            remedy="put the file there or set data.path to the folder that has it",
        )
    return found


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked if its name ends in .gz."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def check_text(path: Path, *, quoted: bool = True) -> None:
    """Read a text file through once, for faults that a table reader reports badly.

    Args:
        path: File, possibly .gz.
        quoted: Whether double quotes enclose values, so that they must be closed.

    Raises:
        DataError: The file is empty, damaged, not UTF-8, or has an open quotation mark.
    """
    n_quotes = n_lines = n_bytes = 0
    rest = b""
    with unpacking(path), open_bytes(path) as file:
        while block := file.read(_BLOCK):
            n_bytes += len(block)
            n_quotes += block.count(b'"')
            rest, lines = _check_utf8(rest + block, path, n_lines=n_lines)
            n_lines += lines
    if rest or not n_bytes:
        raise DataError(
            needed=f"text in UTF-8 in {path.name}",
            received=f"a character cut off at the end of line {n_lines + 1}" if rest else "nothing",
            remedy="get the file again; it is incomplete",
        )
    # Only an odd number can be an open one; parsing every line in Python would be too slow.
    if quoted and n_quotes % 2:
        _check_quotes(path)


def scan_table(path: Path) -> pl.LazyFrame:
    """A table of a CSV, TSV, Parquet or JSON-lines file; values of text files are strings.

    Raises:
        DataError: The file is damaged, or of another kind.
    """
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = suffixes[-1].lower() if suffixes else ""
    with reading(path):
        if kind in _SEPARATORS:
            check_text(path)
            return pl.scan_csv(path, separator=_SEPARATORS[kind], infer_schema=False)
        if kind in {".jsonl", ".ndjson", ".json"}:
            check_text(path, quoted=False)
            return pl.scan_ndjson(path, infer_schema_length=10_000)
        if kind == ".parquet":
            return pl.scan_parquet(path)
    raise DataError(
        needed="a .csv, .tsv, .parquet or .jsonl file",
        received=path.name,
        remedy="convert it to one of these",
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Polars says of a file into a `DataError` that names the file."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as cause:
        raise DataError(
            needed=f"a well-formed table in {path.name}",
            received=(str(cause).splitlines() or [type(cause).__name__])[0],
            remedy="mend the file; values that hold separators or quotation marks must stand in "
            'double quotes, and a double quote in them as ""',
        ) from cause


def need_columns(table: pl.LazyFrame, wanted: Iterable[str], path: Path) -> list[str]:
    """The table's columns, if the wanted ones are among them.

    Raises:
        DataError: Some are not; the message lists what is there and suggests close names.
    """
    with reading(path):
        present = table.collect_schema().names()
    missing = [column for column in wanted if column not in present]
    if missing:
        lower = {column.strip().lower(): column for column in present}
        hints = [
            f"{lower[close[0]]!r} looks like {column!r}"
            for column in missing
            if (close := difflib.get_close_matches(column.lower(), lower, n=1, cutoff=0.5))
        ]
        hint = f" ({'; '.join(hints)})" if hints else ""
        raise DataError(
            needed=f"the column{'s' * (len(missing) > 1)} {', '.join(missing)} in {path.name}",
            received=f"only {', '.join(present)}",
            remedy=f"rename the columns or set their names{hint}",
        )
    return present


def images_by_stem(folder: Path) -> dict[str, str]:
    """Absolute paths of the images in a folder by file name without suffix; empty if none."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    root = str(folder.absolute())
    split = (os.path.splitext(name) for name in names)  # noqa: PTH122 -- 10 times faster
    return {
        stem: f"{root}/{stem}{suffix}"
        for stem, suffix in split
        if suffix.lower() in _IMAGE_SUFFIXES
    }


def to_items(
    table: pl.DataFrame, path: Path, *, images: dict[str, str] | None = None
) -> pl.DataFrame:
    """`tables.ITEMS` from a table with item_id, title and text.

    Args:
        table: Columns `item_id`, `title`, `text`, and `image` where `images` is not given.
            Missing titles and texts become empty; white space is made single spaces.
        path: The file that the rows come from.
        images: Paths by item id.

    Raises:
        DataError: An item has no id, or two rows that differ.
    """
    unnamed = table["item_id"].null_count()
    if unnamed:
        raise DataError(
            needed=f"an item id in every row of {path.name}",
            received=f"{unnamed} rows without one, the first is row "
            f"{int(table['item_id'].is_null().arg_max() or 0) + 1}",
            remedy="remove or complete these rows",
        )
    if images is not None:
        paths = pl.DataFrame(
            {"item_id": list(images), "image": list(images.values())},
            schema={"item_id": pl.String, "image": pl.String},
        )
        table = table.join(paths, on="item_id", how="left", maintain_order="left")
    tidy = conform(table, ITEMS, name=path.name).with_columns(
        pl.col("title", "text").fill_null("").str.replace_all(r"\s+", " ").str.strip_chars()
    )
    distinct = tidy.unique(maintain_order=True)
    doubled = distinct.filter(pl.col("item_id").is_duplicated())
    if doubled.height:
        raise DataError(
            needed=f"one row per item in {path.name}",
            received=f"{doubled.height} rows that share an id but differ, the first "
            f"{doubled['item_id'][0]!r}",
            remedy="keep one row for each item",
        )
    return distinct


def join_words(parts: Sequence[str]) -> str:
    """Non-empty parts, each closed as a sentence."""
    closed = (part if part.endswith((".", "!", "?")) else f"{part}." for part in parts if part)
    return " ".join(closed)


def _check_utf8(block: bytes, path: Path, *, n_lines: int) -> tuple[bytes, int]:
    """The bytes of a character cut off at the block's end, and the lines that ended in it."""
    try:
        block.decode()
    except UnicodeDecodeError as fault:
        if fault.reason == "unexpected end of data":
            return block[fault.start :], block.count(b"\n")
        line = n_lines + block.count(b"\n", 0, fault.start) + 1
        raise DataError(
            needed=f"text in UTF-8 in {path.name}",
            received=f"the byte 0x{block[fault.start]:02x} in line {line}",
            remedy="convert the file, for example with: iconv -f LATIN1 -t UTF-8",
        ) from fault
    return b"", block.count(b"\n")


def _check_quotes(path: Path) -> None:
    """Raise `DataError` where a quoted value never ends."""
    ended = 0
    separator = _SEPARATORS.get(next((s for s in path.suffixes if s in _SEPARATORS), ".csv"), ",")
    with open_bytes(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        reader = csv.reader(text, delimiter=separator, strict=True)
        try:
            for _ in reader:
                ended = reader.line_num
        except csv.Error as cause:
            raise DataError(
                needed=f"a closing double quote for each opening one in {path.name}",
                received=f"a value opened in line {ended + 1} that is not closed properly",
                remedy='close it, and write a double quote inside a quoted value as ""',
            ) from cause


@contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Turn a damaged .gz file into a `DataError`."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, OSError) as cause:
        raise DataError(
            needed=f"a readable file {path.name}",
            received=str(cause) or type(cause).__name__,
            remedy="get the file again; it is damaged or incomplete",
        ) from cause
