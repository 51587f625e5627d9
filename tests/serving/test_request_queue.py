"""Tests for the queue: batches of several requests, limits, failures, blocked models, closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mllm_msr.errors import BackendError
from mllm_msr.serving.request_queue import (
    CircuitOpenError,
    ModelQueue,
    OverloadedError,
    QueuedBackend,
)
from mllm_msr.types import Message, Prompt, TextPart
from online_worlds import FakeBackend

CHOICES = ("yes", "no")


def prompts(n: int, start: int = 0) -> list[Prompt]:
    texts = [f'"Thing {number}"' for number in range(start, start + n)]
    return [Prompt((Message("user", (TextPart(text),)),)) for text in texts]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def queue(backend: FakeBackend) -> Iterator[ModelQueue]:
    made = ModelQueue(lambda: backend, max_queue=20, max_batch=8, cooldown=0.3)
    yield made
    backend.gate.set()
    made.close()


def block(queue: ModelQueue, backend: FakeBackend) -> None:
    """Give the model a job that lasts until its gate is opened."""
    backend.gate.clear()
    queue.score(prompts(1), CHOICES)
    while not backend.batches:
        time.sleep(0.001)


def test_waiting_prompts_become_one_batch_and_each_job_gets_its_results(
    queue: ModelQueue, backend: FakeBackend
) -> None:
    block(queue, backend)
    futures = [queue.score(prompts(3, start), CHOICES) for start in (0, 10, 20)]
    backend.gate.set()
    answers = [[one.log_probs[0] for one in future.result(60)] for future in futures]  # type: ignore[union-attr]
    for start, found in zip((0, 10, 20), answers, strict=True):
        assert found == pytest.approx([-0.01 * (40 - start - i) for i in range(3)])
    assert backend.batches == [1, 6, 3]  # eight fit, and jobs are not split
    assert backend.threads == {"model-0"}


def test_scores_and_texts_are_separate_batches(queue: ModelQueue, backend: FakeBackend) -> None:
    block(queue, backend)
    scores, texts = queue.score(prompts(1), CHOICES), queue.generate(prompts(2))
    backend.gate.set()
    assert len(scores.result(60)) == 1
    assert [answer.text[-2] for answer in texts.result(60)] == ["0", "1"]  # type: ignore[union-attr]


def test_full_queue_rejects_at_once(queue: ModelQueue, backend: FakeBackend) -> None:
    block(queue, backend)
    queued = queue.score(prompts(20), CHOICES)
    with pytest.raises(
        OverloadedError, match=r"At most 20 .*20 are waiting and 1 more .*in a moment"
    ):
        queue.score(prompts(1), CHOICES)
    assert queue.waiting == 20
    backend.gate.set()
    assert len(queued.result(60)) == 20


def test_cancelled_jobs_are_not_processed(queue: ModelQueue, backend: FakeBackend) -> None:
    block(queue, backend)
    assert queue.score(prompts(5), CHOICES).cancel()
    queued = queue.score(prompts(2), CHOICES)
    backend.gate.set()
    assert len(queued.result(60)) == 2
    assert backend.batches == [1, 2]


def test_cancelled_jobs_do_not_count_as_waiting(queue: ModelQueue, backend: FakeBackend) -> None:
    block(queue, backend)
    for _ in range(3):
        assert queue.score(prompts(20), CHOICES).cancel()
        assert queue.waiting == 0
    queued = queue.score(prompts(20), CHOICES)
    assert queue.waiting == 20
    backend.gate.set()
    assert len(queued.result(60)) == 20


def test_circuit_opens_after_failures_and_closes_again(
    queue: ModelQueue, backend: FakeBackend
) -> None:
    backend.fails = True
    for _ in range(3):
        with pytest.raises(BackendError, match="The fake model fails"):
            queue.score(prompts(1), CHOICES).result(60)
    assert queue.circuit_open
    with pytest.raises(CircuitOpenError, match="failed 3 times in a row"):
        queue.score(prompts(1), CHOICES)
    backend.fails = False
    time.sleep(0.35)
    assert len(queue.score(prompts(1), CHOICES).result(60)) == 1
    assert not queue.circuit_open


def test_timeouts_count_as_failures(queue: ModelQueue) -> None:
    for _ in range(3):
        queue.record_timeout()
    assert queue.circuit_open


def test_closing_cancels_waiting_jobs_and_frees_the_model(
    queue: ModelQueue, backend: FakeBackend
) -> None:
    block(queue, backend)
    waiting = queue.score(prompts(2), CHOICES)
    threading.Timer(0.05, backend.gate.set).start()
    queue.close()
    assert waiting.cancelled()
    assert backend.closed
    with pytest.raises(CircuitOpenError, match="shutting down"):
        queue.score(prompts(1), CHOICES)


def test_queued_backend_handles_many_threads_and_timeouts(
    queue: ModelQueue, backend: FakeBackend
) -> None:
    queued = QueuedBackend(queue, fingerprint="x", timeout=20)
    found: dict[int, int] = {}

    def generate(thread: int) -> None:
        found[thread] = len(list(queued.generate(prompts(2))))

    threads = [threading.Thread(target=generate, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), 2)
    assert list(queued.score([], CHOICES)) == []
    backend.gate.clear()
    short = QueuedBackend(queue, fingerprint="x", timeout=0.05)
    with pytest.raises(BackendError, match=r"within 0\.05 s"):
        list(short.score(prompts(1), CHOICES))


def test_copies_work_in_parallel_and_are_loaded_one_after_the_other() -> None:
    made: list[FakeBackend] = []
    loading = threading.Lock()

    def load() -> FakeBackend:
        assert loading.acquire(blocking=False), "two copies are loaded at once"
        time.sleep(0.02)
        made.append(FakeBackend())
        loading.release()
        return made[-1]

    queue = ModelQueue(load, copies=2, max_batch=8)
    try:
        for future in [queue.score(prompts(1), CHOICES, copy=copy) for copy in (0, 1, 1)]:
            future.result(60)
        assert sorted(len(backend.batches) for backend in made) in ([1, 1], [1, 2])
        for backend in made:
            backend.gate.clear()
        busy = [queue.score(prompts(3), CHOICES), queue.score(prompts(7), CHOICES)]
        until = time.monotonic() + 60
        while {backend.batches[-1] for backend in made} != {3, 7} and time.monotonic() < until:
            time.sleep(0.001)
        assert {backend.batches[-1] for backend in made} == {3, 7}
        for backend in made:
            backend.gate.set()
        assert [len(future.result(60)) for future in busy] == [3, 7]
    finally:
        queue.close()
    assert [backend.closed for backend in made] == [True, True]


def test_job_of_one_copy_is_not_processed_by_another() -> None:
    made = [FakeBackend(), FakeBackend()]
    unopened = list(made)
    queue = ModelQueue(lambda: unopened.pop(0), copies=2)
    queue.score(prompts(1), CHOICES, copy=0).result(60)
    queue.score(prompts(1), CHOICES, copy=1).result(60)
    made[0].gate.clear()
    own = [queue.score(prompts(2), CHOICES, copy=0)]
    while made[0].batches == [1]:
        time.sleep(0.001)
    own.append(queue.score(prompts(2), CHOICES, copy=0))
    assert len(queue.score(prompts(4), CHOICES).result(60)) == 4  # the other copy's
    assert not any(future.done() for future in own)
    made[0].gate.set()
    assert [len(future.result(60)) for future in own] == [2, 2]
    queue.close()
    assert made[1].batches == [1, 4]


def long_prompts(n: int, length: int) -> list[Prompt]:
    return [Prompt((Message("user", (TextPart('"Thing 1"' + "x" * length),)),))] * n


def order_of(
    queue: ModelQueue, backend: FakeBackend, jobs: list[tuple[str, int, int]]
) -> list[str]:
    """Queue jobs of lanes while the model is busy; return the lanes in the order of their answers.

    Args:
        queue: The queue.
        backend: Its backend.
        jobs: Lane, number of prompts and length of each prompt in bytes.
    """
    block(queue, backend)
    answered: list[str] = []
    futures = []
    for lane, n, length in jobs:
        future = queue.generate(long_prompts(n, length), lane=lane)
        future.add_done_callback(lambda _, lane=lane: answered.append(lane))
        futures.append(future)
    backend.gate.set()
    for future in futures:
        future.result(60)
    return answered


def test_long_prompts_of_one_lane_do_not_delay_the_others(
    queue: ModelQueue, backend: FakeBackend
) -> None:
    jobs = [("items", 1, 200_000)] * 5 + [("updates", 1, 100)] * 5 + [("histories", 1, 100)]
    answered = order_of(queue, backend, jobs)
    # Only the first one of the lane is before them.
    assert answered[0] == "items"
    assert sorted(answered[1:7]) == ["histories"] + ["updates"] * 5
    assert answered[7:] == ["items"] * 4


def test_many_jobs_of_one_lane_do_not_delay_another(backend: FakeBackend) -> None:
    queue = ModelQueue(lambda: backend, max_batch=2)
    answered = order_of(queue, backend, [("a", 1, 100)] * 12 + [("b", 1, 100)] * 2)
    assert answered.index("b") <= 2
    assert answered[:4].count("b") == 2
    queue.close()


def test_lane_that_was_idle_gets_no_credit(backend: FakeBackend) -> None:
    queue = ModelQueue(lambda: backend, max_batch=1)
    jobs = [("a", 1, 100)] * 3
    assert order_of(queue, backend, jobs) == ["a"] * 3
    backend.batches.clear()
    answered = order_of(queue, backend, [("a", 1, 100), ("b", 1, 100)] * 3)
    assert answered == ["a", "b"] * 3
    queue.close()


def test_batches_have_a_limited_number_of_tokens(queue: ModelQueue, backend: FakeBackend) -> None:
    order_of(queue, backend, [("a", 1, 60_000)] * 4)  # 15,000 tokens each
    assert backend.batches == [1, 2, 2]
