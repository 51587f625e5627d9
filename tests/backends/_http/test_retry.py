"""Tests of backoff, adaptive limit and circuit breaker, with a fake clock."""

from __future__ import annotations

import asyncio

import pytest

from clocks import FakeClock
from mllm_msr.backends._http.retry import AdaptiveLimit, CircuitBreaker, backoff
from mllm_msr.errors import BackendError


def test_backoff_doubles_up_to_a_minute_with_full_jitter() -> None:
    longest = FakeClock(random=1.0).timing
    assert [backoff(n, longest) for n in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert backoff(30, longest) == 60.0
    assert backoff(5, FakeClock(random=0.0).timing) == 0.0


def test_backoff_is_at_least_what_the_server_asks_for() -> None:
    assert backoff(0, FakeClock().timing, at_least=17.0) == 17.0
    assert backoff(4, FakeClock(random=1.0).timing, at_least=2.0) == 8.0


def test_the_limit_grows_and_is_halved_once_per_round() -> None:
    limit = AdaptiveLimit(16, FakeClock().timing)
    assert limit.limit == 4
    for _ in range(5):
        limit.record_success()
    assert limit.limit == 5
    for _ in range(200):
        limit.record_success()
    assert limit.limit == 16
    limit.record_overload(started=100.0)
    limit.record_overload(started=99.0)  # was running when the limit was halved
    assert limit.limit == 8
    for started in (101.0, 102.0, 103.0, 104.0, 105.0):
        limit.record_overload(started=started)
    assert limit.limit == 1


def test_slots_do_not_exceed_the_limit() -> None:
    limit = AdaptiveLimit(3, FakeClock().timing)
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        async with limit.slot():
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    async def run_all() -> None:
        await asyncio.gather(*(work() for _ in range(20)))

    asyncio.run(run_all())
    assert most == 3


def test_slots_wait_as_long_as_the_server_asks_for() -> None:
    clock = FakeClock()
    limit = AdaptiveLimit(3, clock.timing)
    limit.record_overload(started=clock.seconds, wait=30.0)

    async def work() -> float:
        async with limit.slot() as started:
            return started

    assert asyncio.run(work()) == 130.0


def test_an_open_breaker_passes_one_request_per_cooldown_until_a_success() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker("x", clock.timing, threshold=3, cooldown=5.0, total_timeout=60.0)
    for _ in range(2):
        breaker.record_failure("down")
    assert not breaker.is_open
    breaker.record_failure("down")
    assert breaker.is_open
    asyncio.run(breaker.wait())
    asyncio.run(breaker.wait())
    assert clock.slept == [5.0, 5.0]
    breaker.record_success()
    asyncio.run(breaker.wait())
    assert clock.slept == [5.0, 5.0]


def test_the_breaker_raises_an_error_after_total_timeout() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker("host", clock.timing, threshold=2, cooldown=5.0, total_timeout=12.0)
    breaker.record_failure("refused")
    breaker.record_failure("refused")

    async def keep_failing() -> None:
        for _ in range(10):
            await breaker.wait()
            breaker.record_failure("refused")

    with pytest.raises(BackendError, match="endpoint at host has failed for 15 seconds: refused"):
        asyncio.run(keep_failing())
