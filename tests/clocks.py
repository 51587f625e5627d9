"""Fake clock that sleeping advances without waiting."""

from __future__ import annotations

import asyncio

from mllm_msr.backends._http.retry import Timing


class FakeClock:
    """Clock that only advances by sleeping, which does not wait.

    Attributes:
        seconds: Current time.
        slept: Duration of every sleep, in order.
    """

    def __init__(self, *, random: float = 0.5) -> None:
        self.seconds = 100.0
        self.slept: list[float] = []
        self._random = random

    @property
    def timing(self) -> Timing:
        return Timing(now=lambda: self.seconds, sleep=self._sleep, random=lambda: self._random)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)
