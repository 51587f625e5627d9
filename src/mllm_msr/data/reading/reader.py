"""Read a table from any source: CSV and similar, JSON Lines, Parquet, Excel, or a data frame.

All tables from outside pass through `read_table`, so that ids are texts everywhere, and every
reader accepts the same formats and reports the same problems.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from mllm_msr.data.reading.binary import open_excel, open_frame, open_parquet
from mllm_msr.data.reading.checks import NeedsRepairError, check_rows, has_decimal_commas
from mllm_msr.data.reading.delimited import open_delimited
from mllm_msr.data.reading.json_lines import open_json_lines
from mllm_msr.data.reading.records import Column, RawTable, ReadOptions, TableRead
from mllm_msr.data.reading.rows import POLARS_ERRORS, BadRows, plain_name
from mllm_msr.errors import DataError
from mllm_msr.storage.uri import require_local

_DELIMITED: Final = (".csv", ".tsv", ".txt", ".tab", ".psv")
_JSON: Final = (".jsonl", ".ndjson", ".json")
_EXCEL: Final = (".xlsx", ".xlsm")
SUFFIXES: Final = (*_DELIMITED, ".parquet", *_JSON, *_EXCEL)


def read_table(
    source: Path | str | Any,
    columns: Mapping[str, Column],
    *,
    options: ReadOptions | None = None,
    content: str = "rows",
    aggregates: Mapping[str, pl.Expr] | None = None,
    names: Sequence[str] | None = None,
    quoted: bool = True,
) -> TableRead:
    """Read columns of a table and check their values in one pass.

    Blank rows are ignored. The result is lazy where the format allows it.

    Args:
        source: Path of a file, possibly compressed (.gz), or an eager or lazy data frame of Polars,
            or one of pandas.
        columns: Columns to read, by the name of the result.
        options: How to read; everything is detected by default.
        content: What the table contains, for error messages ("interactions").
        aggregates: Expressions over the columns of the result, such as `pl.col("time").min()`, that
            are evaluated in the same pass.
        names: Names of the columns of a file without a header, which is read like CSV whatever
            its suffix.
        quoted: Whether double quotes enclose values of a CSV or TSV file.

    Raises:
        DataError: The file is missing, damaged or empty, lacks a column, or has a bad row.
        MissingExtraError: An Excel file needs the extra `excel`.
    """
    options = options or ReadOptions(has_settings=False)
    is_file = isinstance(source, Path | str)
    name = Path(source).name if is_file else f"the data frame of {content}"
    bad_rows = BadRows(name, options.on_bad_rows, options.has_settings)
    wanted = list(dict.fromkeys(column.source for column in columns.values()))
    if not is_file:
        raw = open_frame(source, wanted, content=content)
    else:
        path = require_local(source)
        if not path.is_file():
            problem = "is not a regular file" if path.exists() else "does not exist"
            raise DataError(f"The file {path} {problem}. Pass the path of a table of {content}.")
        suffix = _suffix(path)
        if suffix in _DELIMITED or names is not None:
            raw = open_delimited(
                path, wanted, options, bad_rows, content=content, names=names, quoted=quoted
            )
        elif suffix in _JSON:
            raw = open_json_lines(path, list(columns.values()), options, bad_rows, content=content)
        elif suffix == ".parquet":
            raw = open_parquet(path, wanted, content=content)
        elif suffix in _EXCEL:
            raw = open_excel(path, wanted, content=content)
        else:
            raise DataError(
                f"{path.name} has an unsupported format. Decompress it, or convert it to .csv, "
                ".tsv, .parquet, .jsonl or .xlsx."
            )
    return _read(raw, columns, options, bad_rows, aggregates or {}, content=content)


def _read(
    raw: RawTable,
    columns: Mapping[str, Column],
    options: ReadOptions,
    bad_rows: BadRows,
    aggregates: Mapping[str, pl.Expr],
    *,
    content: str,
) -> TableRead:
    """Check the rows of an opened table and describe it."""
    try:
        raw = _with_columns(raw, columns, options)
        decimal_comma = options.decimal_comma
        if decimal_comma is None:
            separator = raw.description.separator
            is_possible = separator is not None and separator != ","
            decimal_comma = is_possible and has_decimal_commas(raw, columns)
        n_unreadable = sum(bad_rows.counts.values())
        checked = check_rows(raw, columns, bad_rows, aggregates, decimal_comma=decimal_comma)
    except (*POLARS_ERRORS, NeedsRepairError) as cause:
        if raw.repair is None:
            raise DataError(
                f"{raw.subject} cannot be read as a table of {content}. The file may be damaged, "
                "or a column has values of different types. Export it again, for example as CSV."
            ) from cause
        return _read(raw.repair(), columns, options, bad_rows, aggregates, content=content)
    bad_rows.finish(checked.n_kept)
    used = {name: columns[name].source for name in checked.present}
    return TableRead(
        checked.frame,
        dataclasses.replace(
            raw.description,
            decimal_comma=decimal_comma,
            n_rows=checked.n_rows + n_unreadable,
            columns=used,
            ignored=tuple(n for n in raw.columns if n.strip() and n not in used.values()),
            dropped=dict(bad_rows.counts),
        ),
        checked.aggregates,
    )


def _with_columns(raw: RawTable, columns: Mapping[str, Column], options: ReadOptions) -> RawTable:
    """Return a table with the requested columns, whose names may be spelled differently.

    Raises:
        DataError: A required column is missing; the message suggests close names.
    """
    plain = {plain_name(name): name for name in reversed(raw.columns)}
    renamed = {
        plain[plain_name(column.source)]: column.source
        for column in columns.values()
        if column.source not in raw.columns and plain_name(column.source) in plain
    }
    present = tuple(renamed.get(name, name) for name in raw.columns)
    missing = {c.source: c for c in columns.values() if c.required and c.source not in present}
    if missing:
        raise DataError(_missing_columns(raw, list(missing.values()), options))
    return dataclasses.replace(raw, columns=present, frame=raw.frame.rename(renamed))


def _missing_columns(raw: RawTable, missing: Sequence[Column], options: ReadOptions) -> str:
    """Return the message for columns that a table lacks."""
    by_lower_case = {name.strip().lower(): name for name in raw.columns}
    hints = [
        f"{by_lower_case[close[0]]!r} is similar to {column.source!r}"
        for column in missing
        if (close := difflib.get_close_matches(column.source.lower(), by_lower_case, 1, cutoff=0.5))
    ]
    names = ", ".join(column.source for column in missing)
    settings = ", ".join(column.setting for column in missing if column.setting)
    separator = raw.description.separator
    setting = ", see data.separator" * options.has_settings
    how = f" (separator {separator!r}{setting})" if separator else ""
    if raw.description.format == "Excel":
        how = " (first sheet)"
    present = ", ".join(filter(str.strip, raw.columns[:30]))
    has_header = raw.description.format in {"CSV", "TSV", "Excel"}
    header = " If these are not names of columns, move the header to the first row." * has_header
    return (
        f"{raw.subject} has no column{'s' * (len(missing) > 1)} {names}. Its columns are "
        f"{present}{how}{'; ' if hints else ''}{'; '.join(hints)}."
        f"{'' if hints else header} "
        f"Rename the columns in the file{f', or set {settings}' if settings else ''}."
    )


def _suffix(path: Path) -> str:
    """Return the last suffix of a file in lower case, without that of compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
