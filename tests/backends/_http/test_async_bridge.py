"""Coroutines behind an iterator: order of finishing, laziness, errors, and an early end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from mllm_msr.backends._http.async_bridge import LoopThread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    running = LoopThread()
    yield running
    running.close()


def test_results_come_as_they_are_finished(loop: LoopThread) -> None:
    async def work(item: float) -> float:
        await asyncio.sleep(item)
        return item

    assert list(loop.each([0.1, 0.0], work, ahead=2)) == [(1, 0.0), (0, 0.1)]


def test_items_are_read_as_places_get_free(loop: LoopThread) -> None:
    read: list[int] = []

    async def work(item: int) -> int:
        return item

    results = loop.each((read.append(n) or n for n in itertools.count()), work, ahead=3)
    assert next(results)[1] in {0, 1, 2}
    assert read == [0, 1, 2]


def test_an_error_comes_out_and_ends_the_rest(loop: LoopThread) -> None:
    cancelled: list[int] = []

    async def work(item: int) -> int:
        if item == 0:
            raise ValueError("broken")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        return item

    with pytest.raises(ValueError, match="broken"):
        list(loop.each([1, 2, 0], work, ahead=3))
    loop.run(asyncio.sleep(0))
    assert sorted(cancelled) == [1, 2]


def test_it_works_inside_another_event_loop(loop: LoopThread) -> None:
    async def work(item: int) -> int:
        return item + 1

    async def caller() -> list[tuple[int, int]]:
        return list(loop.each([1], work, ahead=1))

    assert asyncio.run(caller()) == [(0, 2)]
