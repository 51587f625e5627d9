"""What may be searched: the values that a recommender's constructor arguments can take.

A recommender declares them beside its constructor (`interfaces.Tunable`); `pipeline/tune.py` searches
them. They are plain records, so that declaring a space needs no search library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included: whole ones where both ends are integers.

    Attributes:
        low: The smallest.
        high: The largest.
        log: Whether equal ratios are equally far apart; then `low` is above 0.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant.

        >>> Range(1, 8).whole, Range(0.0, 0.5).whole
        (True, False)
        """
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __contains__(self, value: object) -> bool:
        """Whether a value is one of these.

        >>> 3 in Range(1, 8), 9 in Range(1, 8), 0.5 in Range(1, 8)
        (True, False, False)
        """
        if not isinstance(value, int | float) or (self.whole and not isinstance(value, int)):
            return False
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Choice:
    """Some values without an order."""

    values: tuple[Value, ...]

    def __contains__(self, value: object) -> bool:
        """Whether a value is one of these.

        >>> "ce" in Choice(("ce", "bce")), "top1" in Choice(("ce", "bce"))
        (True, False)
        """
        return value in self.values


Space = Mapping[str, Range | Choice]
