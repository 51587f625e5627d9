"""Search spaces: the values that a hyperparameter search may try.

A recommender that can be tuned returns its space from `interfaces.Tunable.space`, and
`pipeline/tune.py` samples from it. The classes are plain records, so that declaring a space does
not need a search library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Range:
    """An interval of numbers, both ends included; integers if both ends are integers.

    Attributes:
        low: The smallest value.
        high: The largest value.
        log: Whether values are sampled on a logarithmic scale; requires `low` > 0.
    """

    low: float
    high: float
    log: bool = False

    @property
    def is_integer(self) -> bool:
        """Return whether the range contains only integers.

        >>> Range(1, 8).is_integer, Range(0.0, 0.5).is_integer
        (True, False)
        """
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __contains__(self, value: object) -> bool:
        """Return whether a value lies in the range.

        >>> 3 in Range(1, 8), 9 in Range(1, 8), 0.5 in Range(1, 8)
        (True, False, False)
        """
        if not isinstance(value, int | float) or (self.is_integer and not isinstance(value, int)):
            return False
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Choice:
    """A set of values without an order.

    Attributes:
        values: The values.
    """

    values: tuple[Value, ...]

    def __contains__(self, value: object) -> bool:
        """Return whether a value is one of the choices.

        >>> "ce" in Choice(("ce", "bce")), "top1" in Choice(("ce", "bce"))
        (True, False)
        """
        return value in self.values


# Search space of a recommender: ranges or choices by the name of the constructor's argument.
Space = Mapping[str, Range | Choice]
