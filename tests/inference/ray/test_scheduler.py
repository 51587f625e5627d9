"""Which prompt is asked when: batches, deaths, suspects that come alone, and giving up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.inference.ray.scheduler import Scheduler
from mllm_msr.types import Prompt


def numbered(n: int) -> list[Prompt]:
    return [Prompt((), max_new_tokens=number) for number in range(n)]


def numbers(prompts: list[Prompt]) -> list[int]:
    return [prompt.max_new_tokens for prompt in prompts]


def test_batches_are_handed_out_in_order_and_settled_by_place() -> None:
    scheduler = Scheduler(numbered(5), size=2, lives=3)
    assert numbers(scheduler.take(0)) == [0, 1]
    assert numbers(scheduler.take(1)) == [2, 3]
    assert [scheduler.settle(1, 1), scheduler.settle(1, 0)] == [3, 2]
    scheduler.finish(1)
    assert numbers(scheduler.take(1)) == [4]
    assert scheduler.take(2) == []
    assert not scheduler.done


def test_it_reads_one_batch_ahead_and_no_further() -> None:
    read: list[int] = []

    def endless() -> Iterator[Prompt]:
        for number in itertools.count():
            read.append(number)
            yield Prompt((), max_new_tokens=number)

    scheduler = Scheduler(endless(), size=2, lives=3)
    assert not scheduler.done
    assert read == [0, 1]
    scheduler.take(0)
    assert read == [0, 1]


def test_what_a_dead_worker_left_is_asked_again_alone() -> None:
    scheduler = Scheduler(numbered(4), size=3, lives=3)
    scheduler.take(0)
    scheduler.settle(0, 1)
    assert scheduler.bury(0) == []
    assert [numbers(scheduler.take(worker)) for worker in (1, 2, 3)] == [[0], [2], [3]]


def test_only_deaths_over_a_prompt_alone_are_held_against_it() -> None:
    scheduler = Scheduler(numbered(2), size=2, lives=2)
    scheduler.take(0)
    assert scheduler.bury(0) == []
    scheduler.take(1)
    assert scheduler.bury(1) == []
    assert numbers(scheduler.take(2)) == [1]
    assert numbers(scheduler.take(3)) == [0]
    assert scheduler.bury(3) == [0]
    scheduler.settle(2, 0)
    scheduler.finish(2)
    assert scheduler.done


def test_the_death_of_an_idle_worker_costs_nothing() -> None:
    scheduler = Scheduler(numbered(1), size=1, lives=1)
    assert scheduler.bury(7) == []
    assert numbers(scheduler.take(8)) == [0]


@pytest.mark.parametrize("poison", [set(), {1}, {0, 5}])
@given(st.randoms(use_true_random=False))
def test_every_prompt_ends_exactly_once_whoever_dies(
    poison: set[int], chance: st.DataObject
) -> None:
    scheduler = Scheduler(numbered(9), size=3, lives=2)
    settled: list[int] = []
    workers = itertools.count()
    for _ in range(1000):
        if scheduler.done:
            break
        worker = next(workers)
        batch = numbers(scheduler.take(worker))
        dies = chance.random() < 0.2 and len(batch) > 1  # type: ignore[attr-defined]
        for place, number in enumerate(batch):
            if number in poison or (dies and place == 1):
                settled += scheduler.bury(worker)
                break
            settled.append(scheduler.settle(worker, place))
        else:
            scheduler.finish(worker)
    assert sorted(settled) == list(range(9))
