"""Parquet and Excel files, and data frames of Polars and pandas."""

from __future__ import annotations

import importlib.util
import logging
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mllm_msr.data.reading.json_lines import as_text
from mllm_msr.data.reading.records import RawTable
from mllm_msr.data.reading.rows import POLARS_ERRORS, require_distinct, shown
from mllm_msr.data.reading.text import wrap_file_errors
from mllm_msr.errors import DataError, MissingExtraError
from mllm_msr.types import SourceFile

_LARGEST_WORKBOOK: Final = 1 << 30  # bytes after decompression


def open_parquet(path: Path, wanted: Collection[str], *, content: str) -> RawTable:
    """Open a Parquet file.

    Raises:
        DataError: The file is damaged, or has a wanted column twice.
    """
    with wrap_file_errors(path), path.open("rb") as file:
        try:
            # On some damaged files, Polars ends the process. Arrow reports them.
            parquet = pq.ParquetFile(file)
            columns = tuple(parquet.schema_arrow.names)
            require_distinct(columns, wanted, path.name)
            for batch in parquet.iter_batches(columns=[n for n in columns if n in wanted]):
                batch.validate(full=True)
            frame = pl.scan_parquet(path.absolute(), glob=False)
            frame.collect_schema()
        except (*POLARS_ERRORS, pa.ArrowException, ValueError, MemoryError) as cause:
            raise DataError(
                f"{path.name} is not a valid Parquet file. It may be incomplete, compressed as a "
                "whole or have another format; export it again."
            ) from cause
    return RawTable(frame, columns, path.name, SourceFile(path, content, "Parquet"))


def open_excel(path: Path, wanted: Collection[str], *, content: str) -> RawTable:
    """Read the first sheet of an Excel workbook (.xlsx).

    Numbers are floats, as Excel stores them: ids of more than 15 digits have lost digits.

    Raises:
        MissingExtraError: fastexcel is not installed.
        DataError: The file is damaged, empty or too large, or has a wanted column twice.
    """
    if importlib.util.find_spec("fastexcel") is None:
        raise MissingExtraError("fastexcel", "excel")
    fastexcel = importlib.import_module("fastexcel")
    # It warns about columns without a value.
    logging.getLogger("fastexcel").setLevel(logging.ERROR)
    with wrap_file_errors(path):
        try:
            with zipfile.ZipFile(path) as archive:
                n_bytes = sum(member.file_size for member in archive.infolist())
            is_too_large = n_bytes > _LARGEST_WORKBOOK
            if not is_too_large:
                workbook = fastexcel.read_excel(path)
                header = workbook.load_sheet(0, header_row=None, n_rows=1, dtypes="string")
                names = header.to_polars().rows()
                if names:
                    frame = workbook.load_sheet(0, schema_sample_rows=None).to_polars()
        except FileNotFoundError:
            raise
        # The errors of the reader have no common class.
        except (Exception, pl.exceptions.PanicException) as cause:
            raise DataError(
                f"{path.name} is not a valid Excel workbook (.xlsx) with a table on its first "
                "sheet. Save it again, or export it as CSV."
            ) from cause
    if is_too_large:
        raise DataError(
            f"{path.name} expands to {n_bytes:,} bytes. Export such a large table as CSV or "
            "Parquet."
        )
    if not names:
        raise DataError(
            f"The first sheet of {path.name}, {workbook.sheet_names[0]!r}, is empty. Move the "
            "sheet with the table to the front."
        )
    require_distinct([name or "" for name in names[0]], wanted, path.name)
    blank = {name: " " * n for n, name in enumerate(frame.columns, 1) if "__UNNAMED__" in name}
    frame = frame.rename(blank)
    description = SourceFile(path, content, "Excel")
    return RawTable(frame.lazy(), tuple(frame.columns), path.name, description)


def open_frame(source: Any, wanted: Collection[str], *, content: str) -> RawTable:
    """Take the rows of a data frame of Polars (eager or lazy) or pandas.

    Raises:
        DataError: The value is no data frame, or a column has values of different types.
    """
    description = SourceFile(Path("data frame"), content, "data frame")
    name = f"the data frame of {content}"
    if isinstance(source, pl.LazyFrame):
        return RawTable(source, tuple(source.collect_schema().names()), name, description)
    if isinstance(source, pl.DataFrame):
        return RawTable(source.lazy(), tuple(source.columns), name, description)
    if not type(source).__module__.startswith("pandas"):
        raise DataError(
            f"A value of the type {type(source).__name__} is not a table. Give a path or a data "
            "frame of Polars or pandas."
        )
    columns = tuple(map(str, source.columns))
    require_distinct(columns, wanted, f"T{name[1:]}")
    frame = pl.DataFrame([_series(str(c), source[c]) for c in source.columns if str(c) in wanted])
    return RawTable(frame.lazy(), columns, name, description)


def _series(name: str, column: Any) -> pl.Series:
    """Convert a column of pandas; columns of objects of different types become texts."""
    is_object = str(column.dtype) == "object"
    for row, value in enumerate(column if is_object else (), start=1):
        if isinstance(value, list | tuple | dict | set):
            raise DataError(
                f"The column {name} of the data frame contains a {type(value).__name__} in row "
                f"{row}: {shown(value)}. Convert the column to text."
            )
    try:
        return pl.Series(name, pl.from_pandas(column))
    except (pa.ArrowException, TypeError, ValueError) as cause:
        if is_object:
            return pl.Series(name, [as_text(value) for value in column], dtype=pl.String)
        raise DataError(
            f"The column {name} of the data frame has the type {column.dtype}, which cannot be "
            "read. Convert it to text, numbers or dates."
        ) from cause
