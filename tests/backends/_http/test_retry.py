"""Waits, limits and the breaker, on a clock that nobody waits for."""

from __future__ import annotations

import asyncio

import pytest

from clocks import FakeClock
from mllm_msr.backends._http.retry import AdaptiveLimit, Breaker, backoff
from mllm_msr.errors import BackendError


def test_waits_double_up_to_a_minute_and_are_random_down_to_nothing() -> None:
    surely = FakeClock(chance=1.0).timing
    assert [backoff(n, surely) for n in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert backoff(30, surely) == 60.0
    assert backoff(5, FakeClock(chance=0.0).timing) == 0.0


def test_a_server_that_asks_for_more_total_timeout_gets_it() -> None:
    assert backoff(0, FakeClock().timing, at_least=17.0) == 17.0
    assert backoff(4, FakeClock(chance=1.0).timing, at_least=2.0) == 8.0


def test_the_limit_grows_by_one_a_round_and_is_halved_once_a_round() -> None:
    limit = AdaptiveLimit(16, FakeClock().timing)
    assert limit.limit == 4
    for _ in range(5):
        limit.succeeded()
    assert limit.limit == 5
    for _ in range(200):
        limit.succeeded()
    assert limit.limit == 16
    limit.overloaded(started=100.0)
    limit.overloaded(started=99.0)  # was under way when the limit fell
    assert limit.limit == 8
    for started in (101.0, 102.0, 103.0, 104.0, 105.0):
        limit.overloaded(started=started)
    assert limit.limit == 1


def test_no_more_hold_a_place_than_the_limit_says() -> None:
    limit = AdaptiveLimit(3, FakeClock().timing)
    held = most = 0

    async def work() -> None:
        nonlocal held, most
        async with limit.slot():
            held += 1
            most = max(most, held)
            await asyncio.sleep(0)
            held -= 1

    async def all_of_them() -> None:
        await asyncio.gather(*(work() for _ in range(20)))

    asyncio.run(all_of_them())
    assert most == 3


def test_nobody_asks_while_the_server_wants_to_be_left_alone() -> None:
    clock = FakeClock()
    limit = AdaptiveLimit(3, clock.timing)
    limit.overloaded(started=clock.seconds, wait=30.0)

    async def work() -> float:
        async with limit.slot() as started:
            return started

    assert asyncio.run(work()) == 130.0


def test_the_breaker_lets_one_through_per_cooldown_and_closes_on_success() -> None:
    clock = FakeClock()
    breaker = Breaker("x", clock.timing, threshold=3, cooldown=5.0, total_timeout=60.0)
    for _ in range(2):
        breaker.failed("down")
    assert not breaker.is_open
    breaker.failed("down")
    assert breaker.is_open
    asyncio.run(breaker.permit())
    asyncio.run(breaker.permit())
    assert clock.slept == [5.0, 5.0]
    breaker.succeeded()
    asyncio.run(breaker.permit())
    assert clock.slept == [5.0, 5.0]


def test_the_breaker_ends_the_work_when_total_timeout_is_used_up() -> None:
    clock = FakeClock()
    breaker = Breaker("host", clock.timing, threshold=2, cooldown=5.0, total_timeout=12.0)
    breaker.failed("refused")
    breaker.failed("refused")

    async def go_on() -> None:
        for _ in range(10):
            await breaker.permit()
            breaker.failed("refused")

    with pytest.raises(BackendError, match=r"at host that answers, .* for 15 seconds \(refused\)"):
        asyncio.run(go_on())
