"""Data frames from rows that Python parsed."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Final

import polars as pl

from mllm_msr.data.reading.records import LINE

_CHUNK: Final = 50_000  # rows


def frame_of_rows(
    rows: Iterator[tuple[int | str | None, ...]], columns: Collection[str]
) -> pl.LazyFrame:
    """Collect rows in a data frame, in chunks.

    Args:
        rows: Line number and texts of each row.
        columns: Names of the texts.
    """
    schema = {LINE: pl.Int64(), **dict.fromkeys(columns, pl.String())}
    chunks = [pl.DataFrame(schema=schema)]
    while chunk := list(itertools.islice(rows, _CHUNK)):
        chunks.append(pl.DataFrame(chunk, schema=schema, orient="row"))
    return pl.concat(chunks).lazy()
