"""Tests of the scheduler: batches, deaths of workers, retries, abandoned prompts."""

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


def test_batches_are_assigned_in_order_and_completed_by_position() -> None:
    scheduler = Scheduler(numbered(5), batch_size=2, max_deaths=3)
    assert numbers(scheduler.next_batch(0)) == [0, 1]
    assert numbers(scheduler.next_batch(1)) == [2, 3]
    assert [scheduler.complete(1, 1), scheduler.complete(1, 0)] == [3, 2]
    scheduler.finish_batch(1)
    assert numbers(scheduler.next_batch(1)) == [4]
    assert scheduler.next_batch(2) == []
    assert not scheduler.done


def test_prompts_are_read_one_batch_ahead() -> None:
    read: list[int] = []

    def infinite() -> Iterator[Prompt]:
        for number in itertools.count():
            read.append(number)
            yield Prompt((), max_new_tokens=number)

    scheduler = Scheduler(infinite(), batch_size=2, max_deaths=3)
    assert not scheduler.done
    assert read == [0, 1]
    scheduler.next_batch(0)
    assert read == [0, 1]


def test_unanswered_prompts_of_a_dead_worker_are_retried_one_by_one() -> None:
    scheduler = Scheduler(numbered(4), batch_size=3, max_deaths=3)
    scheduler.next_batch(0)
    scheduler.complete(0, 1)
    assert scheduler.record_death(0) == []
    assert [numbers(scheduler.next_batch(worker)) for worker in (1, 2, 3)] == [[0], [2], [3]]


def test_only_deaths_during_single_prompts_count() -> None:
    scheduler = Scheduler(numbered(2), batch_size=2, max_deaths=2)
    scheduler.next_batch(0)
    assert scheduler.record_death(0) == []
    scheduler.next_batch(1)
    assert scheduler.record_death(1) == []
    assert numbers(scheduler.next_batch(2)) == [1]
    assert numbers(scheduler.next_batch(3)) == [0]
    assert scheduler.record_death(3) == [0]
    scheduler.complete(2, 0)
    scheduler.finish_batch(2)
    assert scheduler.done


def test_the_death_of_an_idle_worker_has_no_effect() -> None:
    scheduler = Scheduler(numbered(1), batch_size=1, max_deaths=1)
    assert scheduler.record_death(7) == []
    assert numbers(scheduler.next_batch(8)) == [0]


@pytest.mark.parametrize("fatal", [set(), {1}, {0, 5}])
@given(st.randoms(use_true_random=False))
def test_every_prompt_ends_exactly_once(fatal: set[int], random: st.DataObject) -> None:
    scheduler = Scheduler(numbered(9), batch_size=3, max_deaths=2)
    ended: list[int] = []
    workers = itertools.count()
    for _ in range(1000):
        if scheduler.done:
            break
        worker = next(workers)
        batch = numbers(scheduler.next_batch(worker))
        dies = random.random() < 0.2 and len(batch) > 1  # type: ignore[attr-defined]
        for position, number in enumerate(batch):
            if number in fatal or (dies and position == 1):
                ended += scheduler.record_death(worker)
                break
            ended.append(scheduler.complete(worker, position))
        else:
            scheduler.finish_batch(worker)
    assert sorted(ended) == list(range(9))
