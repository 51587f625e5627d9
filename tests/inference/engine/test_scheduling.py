"""Tests of the order of requests and the limits of batches, without a model."""

from __future__ import annotations

from collections import deque

from mllm_msr.inference.engine.scheduling import (
    BatchLimits,
    Request,
    admit,
    next_batch,
    sort_by_prefix,
    sort_longest_first,
    sort_longest_prefix_first,
    use_cached_prefixes,
)
from mllm_msr.models.inputs import Rendered


def request(index: int, length: int, *, new: int = 0, shared: int = 0, prefix: int = 7) -> Request:
    ids = (prefix,) * (length // 2) + tuple(range(100 * index, 100 * index + length - length // 2))
    return Request(index, Rendered(ids, (), length, trimmed=False), new, shared)


def indices(requests: list[Request] | deque[Request]) -> list[int]:
    return [each.index for each in requests]


def test_long_answers_come_first_then_long_prompts() -> None:
    requests = [request(0, 4), request(1, 9), request(2, 2, new=5), request(3, 6)]
    assert indices(sort_longest_first(requests)) == [2, 1, 3, 0]
    assert indices(sort_longest_prefix_first([*requests, request(4, 3, shared=2)])) == [
        4,
        1,
        2,
        3,
        0,
    ]


def test_prompts_with_a_common_prefix_are_consecutive() -> None:
    requests = [
        request(0, 80, prefix=1),
        request(1, 80, prefix=2),
        request(2, 80, prefix=1),
        request(3, 4, prefix=9),
    ]
    ordered = sort_by_prefix(requests, image_token_id=None)
    order = indices(ordered)
    assert abs(order.index(0) - order.index(2)) == 1
    shared = {each.index: each.n_shared for each in ordered}
    assert shared[0] == shared[2] > 0
    assert shared[1] == shared[3] == 0
    assert order[:2] in ([0, 2], [2, 0])


def test_cached_prefixes_are_used_by_requests_without_a_group() -> None:
    requests = [request(0, 6, shared=3), request(1, 6), request(2, 8), request(3, 6)]
    result = use_cached_prefixes(
        requests, lambda rendered: 2 if rendered.input_ids[-1] // 100 == 3 else 0
    )
    assert [(each.index, each.n_shared) for each in result] == [(0, 3), (3, 2), (2, 0), (1, 0)]


def test_a_batch_is_limited_in_rows_and_tokens() -> None:
    requests = deque(request(n, 10) for n in range(5))
    assert indices(next_batch(requests, BatchLimits(rows=3, tokens=1000))) == [0, 1, 2]
    assert indices(requests) == [3, 4]
    requests = deque([request(0, 10), request(1, 10), request(2, 11)])
    assert indices(next_batch(requests, BatchLimits(rows=9, tokens=30))) == [0, 1]


def test_a_single_request_always_fits() -> None:
    assert indices(next_batch(deque([request(0, 50)]), BatchLimits(rows=4, tokens=10))) == [0]
    assert indices(admit(deque([request(0, 50)]), [], BatchLimits(rows=4, tokens=10))) == [0]


def test_a_batch_has_one_prefix_length_and_one_answer_limit() -> None:
    requests = deque(
        [request(0, 4, shared=2), request(1, 4, shared=2), request(2, 4), request(3, 4, new=1)]
    )
    limits = BatchLimits(rows=9, tokens=1000)
    assert [indices(next_batch(requests, limits)) for _ in range(3)] == [[0, 1], [2], [3]]


def test_requests_are_admitted_when_a_quarter_of_the_rows_is_free() -> None:
    limits = BatchLimits(rows=8, tokens=1000)
    running = [request(n, 4) for n in range(7)]
    waiting = deque(request(n, 4) for n in range(10, 15))
    assert admit(waiting, running, limits) == []
    assert indices(admit(waiting, running[:6], limits)) == [10, 11]


def test_admission_accounts_for_the_longest_running_request() -> None:
    waiting = deque(request(n, 4) for n in range(10, 15))
    admitted = admit(waiting, [request(0, 100)], BatchLimits(rows=8, tokens=300))
    assert indices(admitted) == [10, 11]
    assert admit(waiting, [request(0, 100)], BatchLimits(rows=1, tokens=300)) == []
