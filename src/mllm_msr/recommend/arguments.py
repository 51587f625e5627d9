"""Checks of the arguments of `MllmMsr`, which come from Python code and the command line."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Iterable, Mapping, Set
from typing import Final

from mllm_msr.errors import DataError, UsageError

_MAX_LISTED: Final = 10


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


def check_ids(name: str, values: object) -> None:
    """Raise an error unless an argument is a sequence of ids.

    Raises:
        UsageError: It has no order, or contains something that is no text.
    """
    unordered = (str, bytes, Mapping, Set)
    if isinstance(values, unordered) or not isinstance(values, Collection):
        raise UsageError(f"{name} is {_shown(values)}. Pass a list of ids, for example ['v0001'].")
    for value in values:
        check_id(f"An element of {name}", value)


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
        DataError: Some are not; the message lists them.
    """
    unknown = list(dict.fromkeys(item_id for item_id in item_ids if item_id not in catalog))
    if unknown:
        listed = ", ".join(map(repr, unknown[:_MAX_LISTED]))
        more = f" and {len(unknown) - _MAX_LISTED} more" if len(unknown) > _MAX_LISTED else ""
        raise DataError(
            f"{len(unknown)} items are not in the catalog: {listed}{more}. Correct the ids or "
            "leave these items out."
        )


def _shown(value: object) -> str:
    """Return a value and its type for messages."""
    return f"{value!r:.60} ({type(value).__name__})"
