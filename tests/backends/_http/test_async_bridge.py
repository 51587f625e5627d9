"""Tests of coroutines behind an iterator: order, laziness, errors, cancellation."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from mllm_msr.backends._http.async_bridge import LoopThread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


def test_results_are_returned_in_order_of_completion(loop: LoopThread) -> None:
    async def work(item: float) -> float:
        await asyncio.sleep(item)
        return item

    assert list(loop.map_unordered([0.1, 0.0], work, max_concurrent=2)) == [(1, 0.0), (0, 0.1)]


def test_items_are_read_as_slots_become_free(loop: LoopThread) -> None:
    read: list[int] = []

    async def work(item: int) -> int:
        return item

    results = loop.map_unordered(
        (read.append(n) or n for n in itertools.count()), work, max_concurrent=3
    )
    assert next(results)[1] in {0, 1, 2}
    assert read == [0, 1, 2]


def test_an_error_is_raised_and_cancels_the_rest(loop: LoopThread) -> None:
    canceled: list[int] = []

    async def work(item: int) -> int:
        if item == 0:
            raise ValueError("broken")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            canceled.append(item)
            raise
        return item

    with pytest.raises(ValueError, match="broken"):
        list(loop.map_unordered([1, 2, 0], work, max_concurrent=3))
    loop.run(asyncio.sleep(0))
    assert sorted(canceled) == [1, 2]


def test_map_unordered_works_inside_another_event_loop(loop: LoopThread) -> None:
    async def work(item: int) -> int:
        return item + 1

    async def caller() -> list[tuple[int, int]]:
        return list(loop.map_unordered([1], work, max_concurrent=1))

    assert asyncio.run(caller()) == [(0, 2)]
