"""When to ask an endpoint again, how many at a time, and when to stop asking.

Three small machines for `_endpoint.py`, none of which knows HTTP: the wait before a new attempt,
the number of requests under way, and the breaker that leaves a dying server alone. Time, sleep
and chance are handed in, so that tests wait for nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from mllm_msr.errors import BackendError

_BASE: Final = 0.5
_LONGEST: Final = 60.0


@dataclass(frozen=True, slots=True)
class Timing:
    """What tests replace.

    Attributes:
        now: Seconds on a clock that never goes back.
        sleep: Waits for so many seconds.
        chance: A random number in [0, 1).
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = field(default_factory=lambda: random.SystemRandom().random)


def backoff(attempt: int, timing: Timing, *, at_least: float = 0.0) -> float:
    """Seconds to wait after a failed attempt: full jitter, so that clients do not march in step.

    Args:
        attempt: Number of the attempt that failed, from 0.
        timing: Where chance comes from.
        at_least: What the server asked for (Retry-After), in seconds.
    """
    return max(at_least, timing.chance() * min(_LONGEST, _BASE * 2.0**attempt))


class AdaptiveLimit:
    """Requests under way at a time: one more after each round of successes, half when too many.

    Args:
        most: Never more than so many.
        timing: Clock and sleep.
    """

    def __init__(self, most: int, timing: Timing) -> None:
        self._most = most
        self._timing = timing
        self._limit = float(min(most, 4))
        self._under_way = 0
        self._resume_at = 0.0
        self._halved_at = -1.0
        self._changed = asyncio.Condition()

    @property
    def limit(self) -> int:
        """Requests that may be under way now, at least 1."""
        return int(self._limit)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Wait for a free place and hold it; yields the time at which it was got."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._under_way < self.limit)
            self._under_way += 1
        try:
            while (wait := self._resume_at - self._timing.now()) > 0:
                await self._timing.sleep(wait)
            yield self._timing.now()
        finally:
            async with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def succeeded(self) -> None:
        """A request was answered in time."""
        self._limit = min(float(self._most), self._limit + 1.0 / self._limit)

    def overloaded(self, started: float, *, wait: float = 0.0) -> None:
        """The server had too much to do.

        Args:
            started: When the refused request began; those that were under way together count once.
            wait: Seconds for which the server wants to be left alone.
        """
        now = self._timing.now()
        self._resume_at = max(self._resume_at, now + wait)
        if started > self._halved_at:
            self._limit = max(1.0, self._limit / 2)
            self._halved_at = now


class Breaker:
    """Leaves a server alone that has failed many times in a row.

    Closed, everything passes. Open, one request passes per `cooldown`; the first that succeeds
    closes it. Open for longer than `total_timeout`, it ends the work with a clear sentence.

    Args:
        name: What to call the server in an error.
        timing: Clock and sleep.
        threshold: Failures in a row that open it.
        cooldown: Seconds between two requests while it is open.
        total_timeout: Seconds of failure after which the work ends.
    """

    def __init__(
        self,
        name: str,
        timing: Timing,
        *,
        threshold: int = 8,
        cooldown: float = 5.0,
        total_timeout: float = 300.0,
    ) -> None:
        self._name = name
        self._timing = timing
        self._threshold = threshold
        self._cooldown = cooldown
        self._total_timeout = total_timeout
        self._n_failures = 0
        self._failing_since = 0.0
        self._next_at = 0.0
        self._reason = ""

    @property
    def is_open(self) -> bool:
        """Whether requests are being held back."""
        return self._n_failures >= self._threshold

    async def permit(self) -> None:
        """Wait until a request may be sent.

        Raises:
            BackendError: The server has failed for longer than `total_timeout`.
        """
        while self.is_open:
            now = self._timing.now()
            if now - self._failing_since > self._total_timeout:
                raise BackendError(
                    needed=f"an endpoint at {self._name} that answers",
                    received=f"failures alone for {now - self._failing_since:.0f} seconds "
                    f"({self._reason})",
                    remedy="check the server and run the same command again, no reply is lost",
                )
            if now >= self._next_at:
                self._next_at = now + self._cooldown
                return
            await self._timing.sleep(self._next_at - now)

    def succeeded(self) -> None:
        """The server answered, whatever it said."""
        self._n_failures = 0

    def failed(self, reason: str) -> None:
        """The server did not answer, or answered that it cannot."""
        now = self._timing.now()
        if self._n_failures == 0:
            self._failing_since = now
        self._n_failures += 1
        self._reason = reason
        if self._n_failures == self._threshold:
            self._next_at = now + self._cooldown
