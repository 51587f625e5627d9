"""Expressions that convert the values of a column, null where a value is missing or invalid."""

from __future__ import annotations

import json
from typing import Final

import polars as pl

from mllm_msr.data.reading.records import Column
from mllm_msr.errors import DataError

# Above this, neighbouring integers are not distinct as floats of 64 bits.
LARGEST_EXACT: Final = 2**53
_STRINGS: Final = (pl.String, pl.Categorical, pl.Enum)
_TYPES: Final[dict[str, pl.DataType]] = {
    "id": pl.String(),
    "text": pl.String(),
    "number": pl.Float64(),
    "integer": pl.Int64(),
}
DECIMAL_COMMA: Final = r"^[+-]?\d*,\d+(?:[eE][+-]?\d+)?$"


def stored(
    name: str, dtype: pl.DataType, *, decimal_comma: bool, is_stripped: bool = False
) -> pl.Expr:
    """Return the values of a column, stripped, and null instead of blank or NaN.

    Args:
        name: Name of the column.
        dtype: Its type.
        decimal_comma: Whether to write numbers in texts with a point.
        is_stripped: Whether no text is empty or has white space around it.
    """
    value = pl.col(name)
    if not isinstance(dtype, _STRINGS):
        return value.fill_nan(None) if dtype.is_float() else value
    value = value.cast(pl.String)
    if not is_stripped:
        value = value.str.strip_chars()
        value = pl.when(value != "").then(value)
    if decimal_comma:
        has_comma = value.str.contains(DECIMAL_COMMA)
        point = value.str.replace(",", ".", literal=True)
        value = pl.when(has_comma).then(point).otherwise(value)
    return value


def convert(
    column: Column,
    dtype: pl.DataType,
    *,
    file: str,
    decimal_comma: bool,
    is_stripped: bool = False,
) -> pl.Expr:
    """Return the converted values of a column.

    Args:
        column: The column.
        dtype: Its type in the file.
        file: Name of the file, for error messages.
        decimal_comma: Whether numbers in texts have a decimal comma.
        is_stripped: Whether no text is empty or has white space around it.

    Raises:
        DataError: No value of this type can be used.
    """
    is_text = column.kind in {"id", "text"}
    if column.kind == "text" and isinstance(dtype, _STRINGS):
        text = pl.col(column.source).cast(pl.String)
        return text if is_stripped else pl.when(text != "").then(text)
    if column.lists and _is_list_of_texts(dtype):
        return pl.col(column.source).map_elements(_as_json, pl.String)
    value = stored(
        column.source,
        dtype,
        decimal_comma=decimal_comma and not is_text,
        is_stripped=is_stripped,
    )
    if dtype == pl.Null:
        return value.cast(type_of(column))
    if column.kind == "value":
        return column.convert(value, dtype) if column.convert else value
    if is_text:
        _require_text(column, dtype, file)
        return _as_text(value, dtype, fractions=column.kind == "text")
    return _as_number(column, value, dtype, file)


def _is_list_of_texts(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.List | pl.Array) and dtype.inner in {*_STRINGS, pl.Null}


def _as_json(texts: pl.Series) -> str:
    return json.dumps(texts.to_list(), ensure_ascii=False)


def type_of(column: Column) -> pl.DataType:
    """Return the type of the values of a column; null if `convert` decides."""
    return _TYPES.get(column.kind, pl.Null())


def _require_text(column: Column, dtype: pl.DataType, file: str) -> None:
    """Check that a type can be an id or a text."""
    is_id = column.kind == "id"
    what = "ids are texts or whole numbers" if is_id else "texts must be plain"
    if dtype.is_nested() or dtype in {pl.Binary, pl.Object}:
        raise DataError(
            f"The column {column.source} of {file} contains values of type {dtype} from row 1 on, "
            f"but {what}. Convert the column to text."
        )
    if is_id and (dtype.is_temporal() or dtype == pl.Boolean):
        raise DataError(
            f"The column {column.source} of {file} has the type {dtype}, but {what}. "
            f"Check {column.setting or 'the column'}."
        )


def _as_text(value: pl.Expr, dtype: pl.DataType, *, fractions: bool) -> pl.Expr:
    """Return values as text; whole floats become integers.

    Args:
        value: The values.
        dtype: Their type.
        fractions: Whether other floats become text, too, instead of null.
    """
    if dtype.is_float():
        is_whole = (value == value.floor()) & (value.abs() < _largest_exact(dtype))
        whole = pl.when(is_whole).then(value).cast(pl.Int64).cast(pl.String)
        other = pl.when(~is_whole).then(value).cast(pl.String)
        return pl.coalesce(whole, other) if fractions else whole
    text = value.cast(pl.String)
    if dtype.is_decimal():
        text = text.str.replace(r"\.0*$", "")
        if not fractions:
            return pl.when(~text.str.contains(".", literal=True)).then(text)
    return text


def _largest_exact(dtype: pl.DataType) -> int:
    """Return the number above which neighbouring integers are not distinct in a type of floats."""
    if dtype == pl.Float32:
        return 2**24
    return 2**11 if dtype == pl.Float16 else LARGEST_EXACT


def _as_number(column: Column, value: pl.Expr, dtype: pl.DataType, file: str) -> pl.Expr:
    """Return values as finite floats, or as integers."""
    if dtype.is_nested() or dtype.is_temporal() or dtype in {pl.Binary, pl.Object, pl.Boolean}:
        raise DataError(
            f"The column {column.source} of {file} has the type {dtype}, but must contain numbers. "
            "Convert it."
        )
    if column.kind == "number":
        number = value.cast(pl.Float64, strict=False)
        return pl.when(number.is_finite()).then(number)
    whole = value.cast(pl.Int64, strict=False)
    if isinstance(dtype, _STRINGS):
        return whole
    is_exact = whole == value
    if dtype.is_float():
        is_exact &= value.abs() < _largest_exact(dtype)
    return pl.when(is_exact).then(whole)
