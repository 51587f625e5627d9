"""One pass over a table that counts bad rows, detects decimal commas and computes aggregates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from mllm_msr.data.reading.records import LINE, Column, RawTable
from mllm_msr.data.reading.rows import BadRows, shown
from mllm_msr.data.reading.values import DECIMAL_COMMA, convert, stored, type_of

_EXPECTED: Final = {
    "id": "an id: a text or a whole number",
    "number": "a finite number",
    "integer": "a whole number",
}
_DECIMAL_POINT: Final = r"^[+-]?\d*\.\d+(?:[eE][+-]?\d+)?$"
# Names that no column of a file has.
_ROWS: Final = "\x00rows"
_UNREADABLE: Final = "\x00unreadable"
_COMPLETE: Final = "\x00complete"
_POSITION: Final = "\x00position"
_VALID: Final = "\x00valid:"
_BLANK: Final = "\x00blank"
_TEXT: Final = "\x00text:"
_AGGREGATE: Final = "\x00aggregate:"


class NeedsRepairError(Exception):
    """Polars cannot read some rows of the file correctly."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Result of the pass.

    Attributes:
        frame: Converted columns without bad rows.
        present: Names of the columns that the file has.
        n_rows: Number of rows, bad ones included and blank ones not.
        n_kept: Number of rows of `frame`.
        aggregates: Values of the aggregates.
    """

    frame: pl.LazyFrame
    present: tuple[str, ...]
    n_rows: int
    n_kept: int
    aggregates: Mapping[str, Any]


def check_rows(
    raw: RawTable,
    columns: Mapping[str, Column],
    bad_rows: BadRows,
    aggregates: Mapping[str, pl.Expr],
    *,
    decimal_comma: bool,
) -> Checked:
    """Convert the columns of a table and handle its bad rows.

    Args:
        raw: The table; has the source columns.
        columns: Columns by the name of the result.
        bad_rows: Receives the bad rows.
        aggregates: Expressions over the converted columns.
        decimal_comma: Whether numbers in texts have a decimal comma.

    Raises:
        NeedsRepairError: Polars cannot read some rows correctly.
    """
    converted = _convert_all(raw, columns, decimal_comma=decimal_comma)
    needed = [name for name in converted if columns[name].kind != "text"]
    texts = [name for name in converted if columns[name].kind == "text"]
    all_values = _values_and_checks(raw, columns, converted, needed, decimal_comma=decimal_comma)
    is_complete = pl.all_horizontal(pl.lit(value=True), *(pl.col(_VALID + name) for name in needed))
    totals = _collect_row(
        all_values.select(
            pl.len().alias(_ROWS),
            pl.col(_UNREADABLE).fill_null(value=False).any(),
            is_complete.sum().alias(_COMPLETE),
            # Reads all texts, so that damaged ones are found here and not in a later stage.
            *(pl.col(name).str.len_bytes().max().alias(_TEXT + name) for name in texts),
            **_prefixed(aggregates),
        )
    )
    if totals[_UNREADABLE]:
        raise NeedsRepairError
    n_rows = totals[_ROWS]
    if totals[_COMPLETE] < n_rows:
        marked = _marked(raw, columns, converted, needed, decimal_comma=decimal_comma)
        n_rows -= _report(raw, marked, columns, needed, bad_rows)
        all_values = all_values.filter(is_complete)
        if aggregates:
            totals |= _collect_row(all_values.select(**_prefixed(aggregates)))
    absent = {name: pl.lit(None, dtype=type_of(columns[name])) for name in columns}
    return Checked(
        all_values.select(*(pl.col(n) if n in converted else absent[n].alias(n) for n in columns)),
        tuple(
            name
            for name in converted
            if columns[name].source in raw.columns or totals[_TEXT + name] is not None
        ),
        n_rows,
        totals[_COMPLETE],
        {name: totals[_AGGREGATE + name] for name in aggregates},
    )


def _convert_all(
    raw: RawTable, columns: Mapping[str, Column], *, decimal_comma: bool
) -> dict[str, pl.Expr]:
    """Return the converted columns that the table has.

    Fields of JSON may appear late: their columns are in the frame although they look absent.
    """
    schema = raw.frame.collect_schema()
    return {
        name: convert(
            column,
            schema[column.source],
            file=raw.name,
            decimal_comma=decimal_comma,
            is_stripped=raw.is_stripped,
        )
        for name, column in columns.items()
        if column.source in raw.columns or (column.source in schema and column.kind == "text")
    }


def _values_and_checks(
    raw: RawTable,
    columns: Mapping[str, Column],
    converted: Mapping[str, pl.Expr],
    needed: Sequence[str],
    *,
    decimal_comma: bool,
) -> pl.LazyFrame:
    """Return the converted columns, whether each needed one is valid, and unreadable rows."""
    schema = raw.frame.collect_schema()
    valid = {
        _VALID + name: ~_is_bad(columns[name], converted[name], schema, decimal_comma)
        for name in needed
    }
    unreadable = pl.lit(value=False) if raw.invalid is None else raw.invalid
    return raw.frame.with_columns(unreadable.alias(_UNREADABLE)).select(
        _UNREADABLE, **converted, **valid
    )


def has_decimal_commas(raw: RawTable, columns: Mapping[str, Column]) -> bool:
    """Return whether texts of numbers and times have decimal commas and no decimal points."""
    schema = raw.frame.collect_schema()
    names = {
        column.source
        for column in columns.values()
        if column.kind in {"number", "value"} and schema.get(column.source) == pl.String
    }
    if not names:
        return False
    text = pl.col(sorted(names)).str.strip_chars()
    found = _collect_row(
        raw.frame.select(
            text.str.contains(DECIMAL_COMMA).any().name.prefix("comma:"),
            text.str.contains(_DECIMAL_POINT).any().name.prefix("point:"),
        )
    )
    return any(found[f"comma:{name}"] and not found[f"point:{name}"] for name in names)


def _is_bad(column: Column, converted: pl.Expr, schema: pl.Schema, decimal_comma: bool) -> pl.Expr:
    """Return whether a value is invalid, or missing although there must be one."""
    if not column.nullable:
        return converted.is_null()
    given = stored(column.source, schema[column.source], decimal_comma=decimal_comma)
    return converted.is_null() & given.is_not_null()


def _collect_row(table: pl.LazyFrame) -> dict[str, Any]:
    """Return the only row of a table."""
    return table.collect(engine="streaming").row(0, named=True)


def _prefixed(aggregates: Mapping[str, pl.Expr]) -> dict[str, pl.Expr]:
    """Return aggregates with names that differ from those of columns."""
    return {_AGGREGATE + name: expression for name, expression in aggregates.items()}


def _marked(
    raw: RawTable,
    columns: Mapping[str, Column],
    converted: Mapping[str, pl.Expr],
    needed: Sequence[str],
    *,
    decimal_comma: bool,
) -> pl.LazyFrame:
    """Return position, blank (no value in the row) and, for each needed column, its first problem.

    Only the first column with a problem is marked in each row: 1 if its value is missing, 2 if it
    is invalid.
    """
    schema = raw.frame.collect_schema()
    is_blank = pl.all_horizontal(
        pl.lit(raw.has_blank_rows),
        *(stored(name, dtype, decimal_comma=False).is_null() for name, dtype in schema.items()),
    )
    problems = {}
    is_clean = ~is_blank
    for name in needed:
        source = columns[name].source
        is_bad = _is_bad(columns[name], converted[name], schema, decimal_comma)
        is_missing = stored(source, schema[source], decimal_comma=decimal_comma).is_null()
        problems[name] = (
            pl.when(is_clean & is_bad).then(pl.when(is_missing).then(1).otherwise(2)).otherwise(0)
        )
        is_clean &= ~is_bad
    indexed = raw.frame.with_row_index(_POSITION, offset=1)
    position = pl.col(LINE if LINE in schema else _POSITION)
    sources = [columns[name].source for name in needed]
    return indexed.select(
        position.alias(_POSITION),
        is_blank.alias(_BLANK),
        **{f"problem:{name}": problem for name, problem in problems.items()},
        **{f"value:{name}": pl.col(source) for name, source in zip(needed, sources, strict=True)},
    )


def _report(
    raw: RawTable,
    marked: pl.LazyFrame,
    columns: Mapping[str, Column],
    needed: Sequence[str],
    bad_rows: BadRows,
) -> int:
    """Report the bad rows of each column and return the number of blank rows."""
    counts = _collect_row(
        marked.select(
            pl.col(_BLANK).sum(),
            *(
                (pl.col(f"problem:{name}") == problem).sum().alias(f"{problem}:{name}")
                for name in needed
                for problem in (1, 2)
            ),
        )
    )
    place = "Line" if LINE in raw.frame.collect_schema() else "Data row"
    for name in needed:
        column = columns[name]
        for problem in (1, 2):
            n_rows = counts[f"{problem}:{name}"]
            if not n_rows:
                continue
            first = _collect_row(
                marked.filter(pl.col(f"problem:{name}") == problem)
                .select(_POSITION, f"value:{name}")
                .head(1)
            )
            where = f"{place} {first[_POSITION]} of {raw.name}"
            value = first[f"value:{name}"]
            if problem == 1:
                reason, text = f"no {column.source}", f"has no value in the column {column.source}"
            else:
                expected = _EXPECTED.get(column.kind) or _sentence(column.expected, value)
                reason = f"invalid {column.source}"
                text = f"has {shown(value)} in the column {column.source}, which is not {expected}"
            bad_rows.add(
                reason,
                f"{where} {text}",
                n_rows=n_rows,
                fix=_fix(column, value, bad_rows) if problem == 2 else "",
                fix_all=_check_setting(column) if problem == 1 else "",
            )
    return int(counts[_BLANK])


def _fix(column: Column, value: object, bad_rows: BadRows) -> str:
    """Return how to fix an invalid value."""
    if isinstance(value, str) and re.match(DECIMAL_COMMA, value.strip()):
        if bad_rows.has_settings:
            return "If the comma is a decimal sign, set data.decimal_comma=true."
        return "Write numbers with a decimal point."
    if column.kind == "id" and isinstance(value, float) and value.is_integer():
        return "A number of this size has lost digits. Store the ids as text."
    return _sentence(column.fix, value) or _check_setting(column)


def _check_setting(column: Column) -> str:
    """Return the sentence about the setting that names a column, empty if there is none."""
    return f"Check that {column.setting} names the right column." if column.setting else ""


def _sentence(text: str | Callable[[Any], str], value: object) -> str:
    """Return a text, or what a function says about a value."""
    return text if isinstance(text, str) else text(value)
