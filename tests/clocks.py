"""A clock that tests move: nobody waits, and every wait is written down."""

from __future__ import annotations

import asyncio

from mllm_msr.backends._http.retry import Timing


class FakeClock:
    """Time goes on only while somebody sleeps, and then at once.

    Attributes:
        seconds: What the clock says.
        slept: Every wait, in order.
    """

    def __init__(self, *, chance: float = 0.5) -> None:
        self.seconds = 100.0
        self.slept: list[float] = []
        self._chance = chance

    @property
    def timing(self) -> Timing:
        return Timing(now=lambda: self.seconds, sleep=self._sleep, chance=lambda: self._chance)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)
