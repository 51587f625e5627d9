"""Rows of a table: data frames from parsed rows, and bad rows, which are an error or dropped."""

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
    """Bad rows of one file. Once all rows are read, `finish` reports them.

    Attributes:
        name: Name of the file in error messages.
        on_bad_rows: Whether bad rows are an error or dropped.
        has_settings: Whether error messages name settings.
        counts: Number of bad rows by reason.
    """

    name: str
    on_bad_rows: OnBadRows
    has_settings: bool = True
    counts: dict[str, int] = field(default_factory=dict)
    _examples: dict[str, _Example] = field(default_factory=dict)

    def add(
        self, reason: str, example: str, *, n_rows: int = 1, fix: str = "", fix_all: str = ""
    ) -> None:
        """Count bad rows.

        Args:
            reason: Short reason, for counts ("no user_id").
            example: Clause about the first of these rows, without a full stop.
            n_rows: Number of rows.
            fix: How to fix such rows: a sentence.
            fix_all: Replaces `fix` if all rows of the file have this problem.
        """
        self.counts[reason] = self.counts.get(reason, 0) + n_rows
        self._examples.setdefault(reason, _Example(example, fix, fix_all or fix))

    def finish(self, n_usable: int) -> None:
        """Log the bad rows if they are dropped.

        Args:
            n_usable: Number of the other rows.

        Raises:
            DataError: Bad rows are an error, or all rows are bad.
        """
        n_rows = n_usable + sum(self.counts.values())
        if not self.counts:
            return
        if not n_usable:
            raise DataError(self._describe_all(n_rows))
        if self.on_bad_rows == "error":
            reason, n_bad = next(iter(self.counts.items()))
            example = self._examples[reason]
            also = f" ({n_bad} of {n_rows} rows)" if n_bad > 1 else ""
            how = ", or set data.on_bad_rows=drop to leave out such rows" * self.has_settings
            raise DataError(f"{example.text}{also}. {_correct(example.fix)}{how}.")
        for reason, n_bad in self.counts.items():
            example = self._examples[reason]
            logger.warning(
                "%s: dropped %d of %d rows (%s). %s",
                self.name,
                n_bad,
                n_rows,
                reason,
                f"{example.text}. {example.fix}".rstrip(),
            )

    def _describe_all(self, n_rows: int) -> str:
        """Return the message for a file without a usable row, about the most frequent reason."""
        reason = max(self.counts, key=lambda one: self.counts[one])
        example, n_bad = self._examples[reason], self.counts[reason]
        if n_bad == n_rows:
            every = f"All {n_rows} rows of {self.name} are bad for the same reason"
            start = every if n_rows > 1 else f"The only row of {self.name} is bad"
            return f"{start}. {example.text}. {_correct(example.fix_all)}."
        start = f"All {n_rows} rows of {self.name} are bad, {n_bad} of them for this reason"
        return f"{start}: {example.text}. {_correct(example.fix)}."


@dataclass(frozen=True, slots=True)
class _Example:
    """First bad row of a reason, and how to fix such rows."""

    text: str
    fix: str
    fix_all: str


def _correct(fix: str) -> str:
    """Return how to fix bad rows, without a full stop."""
    return f"{fix} Or correct the data" if fix else "Correct the data"


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
