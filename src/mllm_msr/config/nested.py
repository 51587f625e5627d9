"""Nested settings of a source: mappings by section and name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def lookup(settings: Mapping[str, Any], key: str) -> Any:
    """Return a value by its dotted key, or None.

    >>> lookup({"train": {"rank": 4}}, "train.rank")
    4
    """
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    """Change settings to those that another source contains."""
    for key, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value); lists are values."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
