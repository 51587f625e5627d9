"""CSV and similar text files: detect the separator, read with Polars, or with `csv` as a fallback.

Polars is fast but shifts or cuts rows with too many values and misplaced quotation marks. Files
with such rows are read with Python's `csv`, which knows the line of each problem.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from mllm_msr.data.reading import text as text_files
from mllm_msr.data.reading.records import RawTable, ReadOptions
from mllm_msr.data.reading.rows import BadRows, frame_of_rows, plain_name, require_distinct, shown
from mllm_msr.data.reading.text import TextFile, open_binary, wrap_file_errors
from mllm_msr.errors import DataError
from mllm_msr.types import SourceFile

SEPARATORS: Final = (",", "\t", ";", "|")
_SEPARATOR_LINE: Final = re.compile(r'"?sep=([,;\t|])"?\s*')
_EXTRA: Final = "\x00extra"  # a column for values after the last one
_N_SAMPLED: Final = 100  # lines


def open_delimited(
    path: Path,
    wanted: Collection[str],
    options: ReadOptions,
    bad_rows: BadRows,
    *,
    content: str,
    names: Sequence[str] | None = None,
    quoted: bool = True,
) -> RawTable:
    """Open a text file with a separator between columns.

    Args:
        path: The file, possibly compressed.
        wanted: Columns to read.
        options: How to read the file.
        bad_rows: Receives rows that cannot be split into columns.
        content: What the file contains.
        names: Names of the columns if the file has no header.
        quoted: Whether double quotes enclose values.

    Raises:
        DataError: The file is not a text file, or has no or an ambiguous header.
    """
    separator, columns, skip = _layout(path, wanted, options, names, quoted=quoted)
    file = text_files.inspect(path, options, separator=separator if quoted else "")
    kind = "TSV" if separator == "\t" else "CSV"
    description = SourceFile(path, content, kind, encoding=file.codec, separator=separator)
    raw = RawTable(pl.LazyFrame(), columns, path.name, description)

    def read_slowly() -> RawTable:
        present = [name for name in columns if name in wanted]
        rows = _read_rows(file, separator, columns, present, bad_rows, skip=skip, quoted=quoted)
        return dataclasses.replace(raw, frame=frame_of_rows(rows, present), has_blank_rows=False)

    if not file.is_plain:
        return read_slowly()
    frame = pl.scan_csv(
        file.utf8(),
        separator=separator,
        has_header=False,
        skip_lines=skip,
        schema=dict.fromkeys((*columns, _EXTRA), pl.String()),
        quote_char='"' if quoted and file.has_quotes else None,
        missing_columns="insert",
        glob=False,
    )
    return dataclasses.replace(
        raw,
        frame=frame,
        invalid=pl.col(_EXTRA).is_not_null(),
        is_stripped=not file.has_quotes and not file.has_spaces,
        repair=read_slowly,
    )


def _layout(
    path: Path,
    wanted: Collection[str],
    options: ReadOptions,
    names: Sequence[str] | None,
    *,
    quoted: bool,
) -> tuple[str, tuple[str, ...], int]:
    """Return the separator, the distinct columns and the number of line ends before the rows."""
    lines = _sample(path, options)
    # Spreadsheets write and accept a first line such as "sep=;".
    named = _SEPARATOR_LINE.fullmatch(lines[0].removeprefix("\ufeff")) if lines else None
    if named:
        lines = lines[1:]
    separator = options.separator or (named[1] if named else "")
    separator = separator or _detect_separator(lines, wanted, path, quoted=quoted)
    columns, skip = (tuple(names), 0) if names else _header(lines, wanted, separator, path, quoted)
    return separator, columns, skip + (1 if named else 0)


def _sample(path: Path, options: ReadOptions) -> list[str]:
    """Return the first lines of a text file with their line ends, without an incomplete last one.

    Raises:
        DataError: The file cannot be decoded or has no text.
    """
    with wrap_file_errors(path), open_binary(path) as file:
        data = file.read(text_files.SAMPLE)
    name = text_files.detect_encoding(path, data, options)
    # Invalid bytes are reported by `inspect`, with their line.
    text = data.decode(name, errors="replace")
    lines = io.StringIO(text, newline="").readlines()
    if len(data) == text_files.SAMPLE and len(lines) > 1:
        lines.pop()
    return lines


def _detect_separator(
    lines: Sequence[str], wanted: Collection[str], path: Path, *, quoted: bool
) -> str:
    """Return the separator with which the header has the most of the wanted columns.

    Without any wanted column, it is the one with the most lines of equal width.
    """
    suffixes = {".tsv": "\t", ".tab": "\t", ".psv": "|"}
    usual = next((suffixes[s] for s in map(str.lower, path.suffixes) if s in suffixes), ",")

    def score(separator: str) -> tuple[int, int, bool]:
        rows = list(itertools.islice(_split(lines, separator, quoted=quoted), _N_SAMPLED))
        names = {plain_name(name) for name in rows[0]} if rows else set()
        widths = Counter(map(len, rows))
        width, n_equal = widths.most_common(1)[0] if widths else (1, 0)
        return (
            len(names & {plain_name(name) for name in wanted}),
            n_equal if width > 1 else 0,
            separator == usual,
        )

    return max(SEPARATORS, key=score)


def _split(lines: Sequence[str], separator: str, *, quoted: bool) -> Iterator[list[str]]:
    """Yield the values of sampled lines that are not blank, up to the first malformed one."""
    try:
        reader = _reader(lines, separator, quoted=quoted)
        yield from (row for row in reader if row)
    except csv.Error:
        return


def _header(
    lines: Sequence[str], wanted: Collection[str], separator: str, path: Path, quoted: bool
) -> tuple[tuple[str, ...], int]:
    """Return the distinct names of the columns and the number of line ends before the first row."""
    reader = _reader(lines, separator, quoted=quoted)
    try:
        header = next((row for row in reader if any(cell.strip() for cell in row)), None)
    except csv.Error:
        header = None
    if header is None:
        raise DataError(f"{path.name} has no header. Write the names of the columns on line 1.")
    # Names in settings may have other accents or spaces than those of the file.
    spellings = {plain_name(name): name for name in wanted}
    names = [spellings.get(plain_name(name), plain_name(name)) for name in header]
    require_distinct(names, wanted, path.name)
    return tuple(_distinct(names)), reader.line_num


def _distinct(header: Sequence[str]) -> list[str]:
    """Return the names of the columns; repeated names get a number, blank ones stay blank."""
    seen: Counter[str] = Counter()
    taken = set(header)
    names = []
    for name in header:
        unique = name
        while seen[name] and unique in taken:
            seen[name] += 1
            unique = f"{name}_{seen[name]}" if name else " " * seen[name]
        seen[name] = max(seen[name], 1)
        taken.add(unique)
        names.append(unique)
    return names


def _read_rows(
    file: TextFile,
    separator: str,
    columns: Sequence[str],
    wanted: Sequence[str],
    bad_rows: BadRows,
    *,
    skip: int,
    quoted: bool,
) -> Iterator[tuple[int | str | None, ...]]:
    """Yield the line and the wanted values of each row, and report rows that cannot be split."""
    places = [columns.index(name) for name in wanted]
    width = len(columns)
    with wrap_file_errors(file.path), file.text() as text:
        deque(itertools.islice(text, skip), maxlen=0)
        reader = _reader(text, separator, quoted=quoted)
        while True:
            line = skip + reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as fault:
                _report_malformed(fault, line, separator, bad_rows)
                continue
            if not any(map(str.strip, row)):
                continue
            if any(map(str.strip, row[width:])):
                bad_rows.add(
                    f"more than {width} values",
                    f"Line {line} of {bad_rows.name} has {len(row)} values instead of {width} "
                    f"(separator {separator!r}); the last one is {shown(row[-1])}",
                    fix="Enclose values that contain the separator in double quotes.",
                    fix_all="Check that the header names every column." if skip else "",
                )
                continue
            yield line, *(row[place] if place < len(row) else None for place in places)


def _report_malformed(fault: csv.Error, line: int, separator: str, bad_rows: BadRows) -> None:
    """Report a row that `csv` cannot read."""
    name = bad_rows.name
    if "end of data" in str(fault) or "field limit" in str(fault):
        raise DataError(
            f"{name} has a quoted value that starts in line {line} and is not closed. Close it, "
            'and write a double quote inside a quoted value as "".'
        ) from fault
    bad_rows.add(
        "misplaced quotation marks",
        f"Line {line} of {name} has a double quote inside a quoted value (separator {separator!r})",
        fix='Write a double quote inside a quoted value as "".',
    )


def _reader(lines: Iterable[str], separator: str, *, quoted: bool) -> Any:
    """Return a strict reader of `csv`."""
    if quoted:
        return csv.reader(lines, delimiter=separator, strict=True)
    return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE, strict=True)
