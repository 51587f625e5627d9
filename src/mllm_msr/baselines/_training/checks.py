"""Whether settings lie in their ranges: one sentence for each that does not."""

from __future__ import annotations


def too_small(settings: object, *names: str) -> list[str]:
    """One sentence for each of some settings that is below 1; None is left to the data."""
    return [
        f"{name} must be at least 1, it is {getattr(settings, name)}"
        for name in names
        if getattr(settings, name) is not None and getattr(settings, name) < 1
    ]


def not_a_share(settings: object, *names: str) -> list[str]:
    """One sentence for each of some settings that is not in [0, 1)."""
    return [
        f"{name} must lie in [0, 1), it is {getattr(settings, name)}"
        for name in names
        if not 0 <= getattr(settings, name) < 1
    ]
