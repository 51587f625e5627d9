"""Rows of a table: data frames from parsed rows, and bad rows, which are errors or dropped."""

from __future__ import annotations

import itertools
import logging
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from mllm_msr.data.reading.records import LINE, OnBadRows
from mllm_msr.errors import DataError

logger = logging.getLogger(__name__)

# What Polars raises on damaged files.
POLARS_ERRORS: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
_CHUNK: Final = 50_000  # rows
_LONGEST: Final = 60  # characters of a value in an error message


def shown(value: object) -> str:
    """Return the representation of a value, shortened for an error message."""
    text = repr(value[: _LONGEST + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= _LONGEST + 2 else f"{text[:_LONGEST]}..."


def plain_name(name: str) -> str:
    """Return the name of a column in Unicode's normal form C, without white space around it.

    Zero-width spaces and byte order marks, which some programs write, are removed as well.
    """
    return unicodedata.normalize("NFC", name).strip("\u200b\ufeff").strip()


def require_distinct(columns: Iterable[str], wanted: Collection[str], name: str) -> None:
    """Check that no wanted column occurs twice.

    Args:
        columns: Names of the columns of a table.
        wanted: Names of the columns that are used.
        name: Name of the table in error messages.

    Raises:
        DataError: A wanted column occurs several times.
    """
    for column, count in Counter(columns).items():
        if count > 1 and column in wanted:
            raise DataError(
                f"{name} has {count} columns with the name {column!r}. Rename all but one."
            )


@dataclass
class BadRows:
    """Bad rows of one file.

    Attributes:
        name: Name of the file in error messages.
        on_bad_rows: Whether to stop at the first bad row or to drop bad rows.
        has_settings: Whether error messages name settings.
        dropped: Number of dropped rows by reason.
        examples: Sentences about the first dropped row of each reason.
    """

    name: str
    on_bad_rows: OnBadRows
    has_settings: bool = True
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str, *, n_rows: int = 1, fix: str = "") -> None:
        """Count dropped rows.

        Args:
            reason: Short reason, for counts ("no user_id").
            example: Sentence about the first of these rows.
            n_rows: Number of rows.
            fix: How to fix such rows: a sentence.

        Raises:
            DataError: Bad rows are errors.
        """
        sentences = f"{example} {fix}".rstrip()
        if self.on_bad_rows == "error":
            how = ", or set data.on_bad_rows=drop to leave out such rows" * self.has_settings
            correct = "Or correct" if fix else "Correct"
            raise DataError(f"{sentences} {correct} the data{how}.")
        if reason not in self.dropped:
            self.examples[reason] = sentences
        self.dropped[reason] = self.dropped.get(reason, 0) + n_rows

    def report(self) -> None:
        """Log the dropped rows."""
        for reason, n_rows in self.dropped.items():
            logger.warning(
                "%s: dropped %d row%s (%s). %s",
                self.name,
                n_rows,
                "s" * (n_rows > 1),
                reason,
                self.examples[reason],
            )


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
