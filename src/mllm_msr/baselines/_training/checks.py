"""Range checks shared by the settings of several baselines.

Each function returns one sentence per problem, for `SettingsError`.
"""

from __future__ import annotations


def too_small(settings: object, *names: str) -> list[str]:
    """Return one sentence for each setting below 1; `None` is allowed."""
    return [
        f"{name} must be at least 1, but is {value}."
        for name in names
        if (value := getattr(settings, name)) is not None and value < 1
    ]


def not_a_fraction(settings: object, *names: str) -> list[str]:
    """Return one sentence for each setting outside [0, 1)."""
    return [
        f"{name} must be in [0, 1), but is {value}."
        for name in names
        if not 0 <= (value := getattr(settings, name)) < 1
    ]
