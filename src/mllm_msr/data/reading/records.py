"""Records of the table reader: options, columns to read, and the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

import polars as pl

from mllm_msr.errors import SettingsError
from mllm_msr.types import SourceFile

OnBadRows = Literal["error", "drop"]
# Column of a raw table with the line numbers of its rows.
LINE: Final = "\x00line"

Kind = Literal["id", "text", "number", "integer", "value"]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a table is read. What is `None` is detected from the content of the file.

    Attributes:
        separator: Character between the columns of a text file.
        encoding: Encoding of a text file, by its name in Python ("latin-1").
        decimal_comma: Whether numbers are written as "4,5".
        on_bad_rows: "error" stops if a row has a missing or invalid value; "drop" leaves
            out such rows and counts them.
        has_settings: Whether users can change these values with the settings `data.*`, which error
            messages then name.

    Raises:
        SettingsError: An option is not supported.
    """

    separator: str | None = None
    encoding: str | None = None
    decimal_comma: bool | None = None
    on_bad_rows: OnBadRows = "error"
    has_settings: bool = True

    def without_settings(self) -> ReadOptions:
        """Return the same options for files whose settings users cannot change."""
        return replace(self, has_settings=False)

    def __post_init__(self) -> None:
        problems = []
        if self.separator is not None and not _is_separator(self.separator):
            problems.append(
                f"data.separator is {self.separator!r}. Use one character, for example ',', ';', "
                "'|', 'tab' or 'space'."
            )
        if self.encoding is not None and not _is_encoding(self.encoding):
            problems.append(
                f"data.encoding is {self.encoding!r}, which is unknown. Use for example utf-8, "
                "utf-16, cp1252 or shift_jis."
            )
        if self.on_bad_rows not in get_args(OnBadRows):
            known = ", ".join(get_args(OnBadRows))
            problems.append(f"data.on_bad_rows is {self.on_bad_rows!r}. Choose one of {known}.")
        if problems:
            raise SettingsError(problems)


@dataclass(frozen=True, slots=True)
class Column:
    """One column to read.

    Attributes:
        source: Name of the column in the file.
        kind: Type of the result. "id": text without surrounding white space; whole numbers lose
            their decimals. "text": text, which may be null; the other kinds must have a value in
            every row. "number": finite float. "integer": 64-bit integer. "value": the result of
            `convert`, or the value as stored (text in text files).
        required: Whether the file must have the column. Without an optional column, the result
            is null in every row, also for kinds that must have a value.
        nullable: Whether values may be missing, although `kind` requires them.
        lists: Only for "text". Whether a value may be a list of texts; the result is then the text
            of a JSON list.
        setting: Setting that names the column, for error messages ("data.user_column").
        convert: Only for "value". Takes an expression and its type and returns another expression,
            null where the value is invalid. Texts are stripped, and null instead of blank.
        expected: What a valid value is, for error messages ("a time"), or a function that takes
            the invalid value and returns this.
        fix: How to fix an invalid value, for error messages: a sentence, or a function that takes
            the value and returns one.
    """

    source: str
    kind: Kind
    required: bool = True
    nullable: bool = False
    lists: bool = False
    setting: str | None = None
    convert: Callable[[pl.Expr, pl.DataType], pl.Expr] | None = None
    expected: str | Callable[[object], str] = "a value"
    fix: str | Callable[[object], str] = ""


@dataclass(frozen=True, slots=True)
class TableRead:
    """A table that was read.

    Attributes:
        frame: The requested columns with their types, lazy and without bad rows.
        description: How the file was read, for `mllm-msr check` and the report.
        aggregates: Values of the requested aggregates over the rows of `frame`.
    """

    frame: pl.LazyFrame
    description: SourceFile
    aggregates: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RawTable:
    """A table whose values are not converted yet.

    Attributes:
        frame: Rows of the file. Values of text files are strings. May have more columns than
            `columns`.
        columns: Columns of the file, in its order.
        name: Name of the file in error messages.
        description: How the file is read.
        invalid: Expression that is true for a row that only `repair` can read.
        is_stripped: Whether no text is empty or has white space around it.
        has_blank_rows: Whether rows without any value may be in the frame; they are ignored.
        repair: Slower reader that handles or reports what Polars cannot; `None` if there is none.
    """

    frame: pl.LazyFrame
    columns: tuple[str, ...]
    name: str
    description: SourceFile
    invalid: pl.Expr | None = None
    is_stripped: bool = False
    has_blank_rows: bool = True
    repair: Callable[[], RawTable] | None = None

    @property
    def subject(self) -> str:
        """Return the name as the subject of a sentence."""
        return f"T{self.name[1:]}" if self.name.startswith("the ") else self.name


def _is_separator(text: str) -> bool:
    """Return whether a text can separate columns."""
    return len(text) == 1 and text.isascii() and text not in '"\r\n\0'


def _is_encoding(name: str) -> bool:
    """Return whether a name denotes an encoding of text that Python knows."""
    try:
        "".encode(name)
    except (LookupError, ValueError):
        return False
    return True
