"""Checks of the arguments of `MllmMsr`, which come from Python code and the command line."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Final

import polars as pl

from mllm_msr import tables
from mllm_msr.errors import DataError, UsageError
from mllm_msr.recommend.similar_ids import similar_ids

_MAX_LISTED: Final = 10
RARE_USERS: Final = (
    "A run leaves out users with fewer interactions than data.min_user_interactions; give their "
    "history instead."
)
# Sorting more ids to suggest one would delay the message.
_MAX_SORTED: Final = 200_000


def check_id(name: str, value: object) -> None:
    """Raise an error unless an argument is an id.

    Raises:
        UsageError: It is no text.
    """
    if not isinstance(value, str):
        raise UsageError(
            f"{name} is {_shown(value)}. Pass one id as text, for example "
            f"{str(value) if isinstance(value, numbers.Integral) else 'u0001'!r}."
        )


def read_ids(name: str, values: object, column: str) -> list[str]:
    """Return the ids of an argument: of a list or column, or of a column of a frame.

    Args:
        name: Name of the argument, for messages.
        values: Ids in order; or a frame of Polars or pandas. The rows of a frame with a column
            `timestamp` or `position` are sorted by it.
        column: Column of the ids in a frame.

    Raises:
        UsageError: It has no order, or contains something that is no text, or is a frame without
            the column.
    """
    if isinstance(values, pl.DataFrame | pl.LazyFrame) or _is_pandas_frame(values):
        values = _column(name, tables.as_frame(values, name=name), column)
    if isinstance(values, numbers.Integral):
        check_id(name, values)
    unordered = (str, bytes, Mapping, Set)
    if isinstance(values, unordered) or not isinstance(values, Collection):
        raise UsageError(
            f"{name} is {_shown(values)}. Pass a list of ids, for example ['v0001'], or a frame "
            f"with the column {column}."
        )
    ids = list(values)
    for value in ids:
        check_id(f"An element of {name}", value)
    return ids


def _is_pandas_frame(value: object) -> bool:
    return isinstance(value, tables.ArrowTable) and hasattr(value, "columns")


def _column(name: str, frame: pl.DataFrame, column: str) -> pl.Series:
    """Return a column of a frame in the order of time."""
    if column not in frame.columns:
        raise UsageError(
            f"{name} is a frame without the column {column}; its columns are "
            f"{', '.join(frame.columns) or 'none'}. Rename the column of the ids."
        )
    order = [by for by in ("timestamp", "position") if by in frame.columns]
    return frame.sort(order, maintain_order=True)[column] if order else frame[column]


def require_users(user_ids: Iterable[str], known: Collection[str]) -> None:
    """Raise an error unless all users are known.

    Raises:
        DataError: Some are not; the message lists them, and an id that is similar to the first.
    """
    problem = describe_unknown_users(user_ids, known)
    if problem:
        raise DataError(f"{problem} {RARE_USERS}")


def describe_unknown_users(user_ids: Iterable[str], known: Collection[str]) -> str:
    """Return sentences that list unknown users and suggest a similar id; empty if all are known.

    Example:
        >>> describe_unknown_users(["u11"], ["u1", "x2"])
        "Unknown user 'u11'. Did you mean 'u1'?"
    """
    unknown = list(dict.fromkeys(user_id for user_id in user_ids if user_id not in known))
    if not unknown:
        return ""
    plural = "s" if len(unknown) > 1 else ""
    return f"Unknown user{plural} {_listed(unknown)}.{_suggestion(unknown[0], known)}"


def _suggestion(unknown: str, known: Collection[str]) -> str:
    """Return a question that names the most similar known id; empty if there is none."""
    close = similar_ids(unknown, sorted(known), limit=1) if len(known) <= _MAX_SORTED else []
    return f" Did you mean {close[0]!r}?" if close else ""


def check_counts(*, k: object, budget: object) -> None:
    """Raise an error unless the length of a list and its budget are numbers in their range.

    Raises:
        UsageError: `k` is no whole number of at least 1, or `budget` is given and no whole number
            of at least 0.
    """
    for name, value, least in (("k", k, 1), ("budget", budget, 0)):
        if name == "budget" and value is None:
            continue
        is_number = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not is_number or value < least:  # type: ignore[operator]
            raise UsageError(f"{name} is {_shown(value)}. Pass a whole number of at least {least}.")


def require_known(item_ids: Iterable[str], catalog: Collection[str]) -> None:
    """Raise an error unless all items are in the catalog.

    Raises:
        DataError: Some are not; the message lists them, and an id that is similar to the first.
    """
    unknown = list(dict.fromkeys(item_id for item_id in item_ids if item_id not in catalog))
    if unknown:
        subject = "1 item is" if len(unknown) == 1 else f"{len(unknown)} items are"
        raise DataError(
            f"{subject} not in the catalog: {_listed(unknown)}.{_suggestion(unknown[0], catalog)} "
            "Correct the ids or leave these items out."
        )


def _listed(ids: Sequence[str]) -> str:
    """Return the first of some ids, for messages."""
    more = f" and {len(ids) - _MAX_LISTED} more" if len(ids) > _MAX_LISTED else ""
    return ", ".join(map(repr, ids[:_MAX_LISTED])) + more


def _shown(value: object) -> str:
    """Return a value and its type for messages."""
    return f"{value!r:.60} ({type(value).__name__})"
