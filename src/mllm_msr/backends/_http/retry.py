"""Retry policy of an endpoint: backoff, adaptive concurrency and a circuit breaker.

Used by `client.py`. Nothing here depends on HTTP. Clock, sleep and randomness are arguments, so
that tests do not wait.
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

_BASE_SECONDS: Final = 0.5
_MAX_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Sources of time and randomness.

    Attributes:
        now: Returns the seconds of a monotonic clock.
        sleep: Waits for a number of seconds.
        random: Returns a random number in [0, 1).
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = field(default_factory=lambda: random.SystemRandom().random)


def backoff(attempt: int, timing: Timing, *, at_least: float = 0.0) -> float:
    """Return the seconds to wait after a failed attempt: exponential backoff with full jitter.

    Args:
        attempt: Number of the attempt that failed, from 0.
        timing: Source of randomness.
        at_least: Seconds that the server asked for (Retry-After).
    """
    return max(at_least, timing.random() * min(_MAX_SECONDS, _BASE_SECONDS * 2.0**attempt))


class AdaptiveLimit:
    """Limit of concurrent requests: plus one per round of successes, halved on overload.

    Args:
        maximum: Upper bound of the limit.
        timing: Clock and sleep.
    """

    def __init__(self, maximum: int, timing: Timing) -> None:
        self._maximum = maximum
        self._timing = timing
        self._limit = float(min(maximum, 4))
        self._n_running = 0
        self._resume_at = 0.0
        self._halved_at = -1.0
        self._changed = asyncio.Condition()

    @property
    def limit(self) -> int:
        """Return the current limit, at least 1."""
        return int(self._limit)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Wait for a free slot and hold it; yield the time at which it became free."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._n_running < self.limit)
            self._n_running += 1
        try:
            while (wait := self._resume_at - self._timing.now()) > 0:
                await self._timing.sleep(wait)
            yield self._timing.now()
        finally:
            async with self._changed:
                self._n_running -= 1
                self._changed.notify_all()

    def record_success(self) -> None:
        """Increase the limit after a request that was answered in time."""
        self._limit = min(float(self._maximum), self._limit + 1.0 / self._limit)

    def record_overload(self, started: float, *, wait: float = 0.0) -> None:
        """Halve the limit after the server reported overload.

        Args:
            started: Start time of the request. Concurrent requests halve the limit only once.
            wait: Seconds to wait before the next request, as the server asked for.
        """
        now = self._timing.now()
        self._resume_at = max(self._resume_at, now + wait)
        if started > self._halved_at:
            self._limit = max(1.0, self._limit / 2)
            self._halved_at = now


class CircuitBreaker:
    """Circuit breaker that pauses requests after many consecutive failures of a server.

    While it is closed, all requests pass. While it is open, one request passes per `cooldown`, and
    the first success closes it. If it stays open for longer than `total_timeout`, it raises an
    error.

    Args:
        name: Name of the server in errors.
        timing: Clock and sleep.
        threshold: Consecutive failures that open it.
        cooldown: Seconds between two requests while it is open.
        total_timeout: Seconds of failures after which an error is raised.
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
        """Return whether requests are paused."""
        return self._n_failures >= self._threshold

    async def wait(self) -> None:
        """Wait until a request may be sent.

        Raises:
            BackendError: The server has failed for longer than `total_timeout`.
        """
        while self.is_open:
            now = self._timing.now()
            if now - self._failing_since > self._total_timeout:
                raise BackendError(
                    f"The endpoint at {self._name} has failed for "
                    f"{now - self._failing_since:.0f} seconds: {self._reason}. Check the server "
                    "and run the same command again. Finished responses are cached."
                )
            if now >= self._next_at:
                self._next_at = now + self._cooldown
                return
            await self._timing.sleep(self._next_at - now)

    def record_success(self) -> None:
        """Close the circuit after any response, including errors of single requests."""
        self._n_failures = 0

    def record_failure(self, reason: str) -> None:
        """Count a request that the server did not answer or could not handle."""
        now = self._timing.now()
        if self._n_failures == 0:
            self._failing_since = now
        self._n_failures += 1
        self._reason = reason
        if self._n_failures == self._threshold:
            self._next_at = now + self._cooldown
