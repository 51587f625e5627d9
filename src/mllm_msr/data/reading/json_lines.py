"""JSON Lines: read with Polars, or with `json` as a fallback.

The types of the used columns are given, so that fields may appear late or with mixed types. Polars
writes nested values and booleans as texts and does not report the line of a malformed object; rows
that look so are read again with Python's `json`.
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import json
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from mllm_msr.data.reading import text as text_files
from mllm_msr.data.reading.records import Column, RawTable, ReadOptions
from mllm_msr.data.reading.rows import BadRows, frame_of_rows, shown
from mllm_msr.data.reading.text import TextFile, wrap_file_errors
from mllm_msr.data.reading.values import LARGEST_EXACT
from mllm_msr.errors import DataError
from mllm_msr.types import SourceFile

_N_SAMPLED: Final = 10_000  # lines
_MOST_DIGITS: Final = 1000
_NESTED: Final = r"^[\[{]"
_NOT_AN_ID: Final = r"^(?:[\[{]|true$|false$|-?\d+(?:\.\d|[eE]))"


def open_json_lines(
    path: Path,
    columns: Sequence[Column],
    options: ReadOptions,
    bad_rows: BadRows,
    *,
    content: str,
) -> RawTable:
    """Open a file with one JSON object per line.

    Args:
        path: The file, possibly compressed.
        columns: Columns to read.
        options: How to read the file.
        bad_rows: Receives lines that are not objects, and values that are not plain.
        content: What the file contains.

    Raises:
        DataError: The file is not a text file or starts with a list.
    """
    file = text_files.inspect(path, options, is_json=True)
    wanted = list(dict.fromkeys(column.source for column in columns))
    present = _fields(file)
    raw = RawTable(
        pl.LazyFrame(),
        tuple(present),
        path.name,
        SourceFile(path=path, content=content, format="JSON Lines", encoding=file.codec),
        has_blank_rows=False,
    )

    def read_slowly() -> RawTable:
        rows = _read_rows(file, columns, wanted, bad_rows)
        return dataclasses.replace(raw, frame=frame_of_rows(rows, wanted))

    if not file.is_plain:
        return read_slowly()
    data = file.utf8()
    # Paths are patterns for Polars.
    source = data if isinstance(data, bytes) else glob.escape(str(data))
    frame = pl.scan_ndjson(source, schema=dict.fromkeys(wanted, pl.String()))
    unclear = [
        pl.col(column.source).str.contains(_NOT_AN_ID if column.kind == "id" else _NESTED)
        for column in columns
        if not column.lists
    ]
    return dataclasses.replace(
        raw, frame=frame, invalid=pl.any_horizontal(unclear), repair=read_slowly
    )


def _fields(file: TextFile) -> dict[str, None]:
    """Return the names of the fields in the first lines."""
    names: dict[str, None] = {}
    first = ""
    with wrap_file_errors(file.path), file.text() as text:
        for line in itertools.islice(text, _N_SAMPLED):
            value = _parse(line)
            if isinstance(value, dict):
                names.update(dict.fromkeys(value))
            first = first or line.strip()
    if not names and first:
        kind = "a JSON list" if first.startswith("[") else shown(first)
        raise DataError(
            f"{file.path.name} starts with {kind}. Write one JSON object per line (JSON Lines), "
            "without brackets around the objects and commas between them."
        )
    return names


def _read_rows(
    file: TextFile, columns: Sequence[Column], wanted: Collection[str], bad_rows: BadRows
) -> Iterator[tuple[int | str | None, ...]]:
    """Yield the line number and the wanted values of each object, and report bad lines."""
    by_source = {column.source: column for column in columns}
    with wrap_file_errors(file.path), file.text() as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            row = _parse(line)
            if not isinstance(row, dict):
                place = f"Line {number} of {bad_rows.name}"
                bad_rows.add(
                    "not a JSON object", f"{place} is not a JSON object: {shown(line.strip())}"
                )
                continue
            values: list[str | None] = []
            for name in wanted:
                value = row.get(name)
                column = by_source[name]
                if column.lists and isinstance(value, list):
                    value = json.dumps(value, ensure_ascii=False)
                problem = _problem(value, is_id=column.kind == "id")
                if problem:
                    bad_rows.add(
                        f"{name} is {problem}",
                        f"The value of {name} in line {number} of {bad_rows.name} is {problem}: "
                        f"{shown(value)}",
                        fix="Write it as a text.",
                    )
                    break
                values.append(as_text(value))
            else:
                yield number, *values


def _parse(line: str) -> Any:
    """Return the value of a line, a string for malformed lines."""
    try:
        return json.loads(line, parse_int=_integer)
    except (ValueError, RecursionError):
        return line


def _integer(digits: str) -> int | str:
    """Return an integer; numbers that Python would be slow to convert stay texts."""
    return int(digits) if len(digits) < _MOST_DIGITS else digits


def _problem(value: object, *, is_id: bool) -> str:
    """Return why a value cannot be used; empty if it can."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if is_id and isinstance(value, bool):
        return "a boolean"
    if is_id and isinstance(value, float) and not math.isnan(value):
        if not value.is_integer():
            return "a number with decimals"
        if abs(value) >= LARGEST_EXACT:
            return "a number without all of its digits"
    return ""


def as_text(value: object) -> str | None:
    """Return a plain value as text; NaN and null are missing, whole floats become integers."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # Lone surrogates are no characters.
    return str(value).encode("utf-8", errors="replace").decode()
