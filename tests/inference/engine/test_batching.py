"""The order of a window and the bounds of batches, without a model."""

from __future__ import annotations

from collections import deque

from mllm_msr.inference.engine.batching import (
    Job,
    Room,
    longest_first,
    most_shared_first,
    next_answers,
    next_batch,
    side_by_side,
    with_known,
)
from mllm_msr.models.inputs import Rendered


def job(index: int, length: int, *, new: int = 0, shared: int = 0, begin: int = 7) -> Job:
    ids = (begin,) * (length // 2) + tuple(range(100 * index, 100 * index + length - length // 2))
    return Job(index, Rendered(ids, (), length, trimmed=False), new, shared)


def indices(jobs: list[Job] | deque[Job]) -> list[int]:
    return [each.index for each in jobs]


def test_long_prompts_come_first_and_long_answers_before_them():
    jobs = [job(0, 4), job(1, 9), job(2, 2, new=5), job(3, 6)]
    assert indices(longest_first(jobs)) == [2, 1, 3, 0]
    assert indices(most_shared_first([*jobs, job(4, 3, shared=2)])) == [4, 1, 2, 3, 0]


def test_prompts_that_begin_alike_stand_side_by_side():
    jobs = [job(0, 80, begin=1), job(1, 80, begin=2), job(2, 80, begin=1), job(3, 4, begin=9)]
    placed = side_by_side(jobs, image_token_id=None)
    order = indices(placed)
    assert abs(order.index(0) - order.index(2)) == 1
    shared = {each.index: each.n_shared for each in placed}
    assert shared[0] == shared[2] > 0
    assert shared[1] == shared[3] == 0
    assert order[:2] in ([0, 2], [2, 0])


def test_what_was_read_before_is_for_those_that_stand_alone():
    jobs = [job(0, 6, shared=3), job(1, 6), job(2, 8), job(3, 6)]
    found = with_known(jobs, lambda rendered: 2 if rendered.input_ids[-1] // 100 == 3 else 0)
    assert [(each.index, each.n_shared) for each in found] == [(0, 3), (3, 2), (2, 0), (1, 0)]


def test_a_batch_is_bounded_in_rows_and_tokens():
    jobs = deque(job(at, 10) for at in range(5))
    assert indices(next_batch(jobs, Room(rows=3, tokens=1000))) == [0, 1, 2]
    assert indices(jobs) == [3, 4]
    jobs = deque([job(0, 10), job(1, 10), job(2, 11)])
    assert indices(next_batch(jobs, Room(rows=9, tokens=30))) == [0, 1]


def test_one_job_always_has_room():
    assert indices(next_batch(deque([job(0, 50)]), Room(rows=4, tokens=10))) == [0]
    assert indices(next_answers(deque([job(0, 50)]), [], Room(rows=4, tokens=10))) == [0]


def test_a_batch_holds_jobs_of_one_kind():
    jobs = deque([job(0, 4, shared=2), job(1, 4, shared=2), job(2, 4), job(3, 4, new=1)])
    room = Room(rows=9, tokens=1000)
    assert [indices(next_batch(jobs, room)) for _ in range(3)] == [[0, 1], [2], [3]]


def test_answers_begin_when_a_quarter_of_the_places_is_free():
    room = Room(rows=8, tokens=1000)
    writing = [job(at, 4) for at in range(7)]
    waiting = deque(job(at, 4) for at in range(10, 15))
    assert next_answers(waiting, writing, room) == []
    assert indices(next_answers(waiting, writing[:6], room)) == [10, 11]


def test_answers_that_begin_leave_room_for_the_longest_that_is_written():
    waiting = deque(job(at, 4) for at in range(10, 15))
    begun = next_answers(waiting, [job(0, 100)], Room(rows=8, tokens=300))
    assert indices(begun) == [10, 11]
    assert next_answers(waiting, [job(0, 100)], Room(rows=1, tokens=300)) == []
