"""The queue in front of a model: prompts of several requests become one batch.

A backend is asked from one thread only; a small model may stand in memory several times, so that
several batches are worked on side by side. While all are at work, prompts gather; the next batch
takes as many as there is room for, whoever sent them. The queue is bounded: beyond, requests are
refused at once instead of waiting for an answer that comes too late. A model that fails or hangs
again and again is left alone for a while, so that requests fall back without waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Final, Literal, final

from mllm_msr.errors import BackendError, MllmMsrError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt

logger = logging.getLogger(__name__)

_Kind = Literal["score", "generate"]

_FAILURES: Final = 3


class OverloadedError(BackendError):
    """The queue is full."""


class RestingError(BackendError):
    """The model has failed again and again and is left alone for a while."""


@dataclass(slots=True, eq=False)
class _Job:
    kind: _Kind
    prompts: Sequence[Prompt]
    choices: tuple[str, ...] = ()
    copy: int | None = None  # who must do it, if it may not be anybody
    future: Future[list[ChoiceScores] | list[Completion]] = field(default_factory=Future)


class ModelQueue:
    """One model, its threads and its queue.

    Args:
        open_backend: Makes the backend; called in each copy's thread when its first prompt comes.
        copies: How many backends there are, each with a thread.
        max_queue: Prompts that may wait.
        max_batch: Prompts asked at a time.
        rest: Seconds for which a failing model is left alone.
        on_batch: Told the number of prompts of every batch.

    Attributes:
        answered: Whether the model has ever answered, so that it is in memory.
        copies: As given.
    """

    def __init__(
        self,
        open_backend: Callable[[], Backend],
        *,
        copies: int = 1,
        max_queue: int = 2000,
        max_batch: int = 64,
        rest: float = 10.0,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._open_backend = open_backend
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._rest = rest
        self._on_batch = on_batch
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failures = 0
        self._circuit_open_until = 0.0
        self._opening = threading.Lock()
        self.answered = False
        self.copies = copies
        self._threads = [
            threading.Thread(target=self._run, args=(copy,), name=f"model-{copy}", daemon=True)
            for copy in range(copies)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Prompts that wait."""
        with self._changed:
            return self._n_waiting()

    @property
    def circuit_open(self) -> bool:
        """Whether the model is left alone at the moment."""
        return time.monotonic() < self._circuit_open_until

    def score(
        self, prompts: Sequence[Prompt], choices: Sequence[str], *, copy: int | None = None
    ) -> Future[list[ChoiceScores] | list[Completion]]:
        """Queue prompts to be scored; the future yields one `ChoiceScores` per prompt.

        Args:
            prompts: The prompts.
            choices: See `Backend.score`.
            copy: Number of the copy that must do it, from 0; whoever is free where left out.

        Raises:
            OverloadedError: The queue is full.
            RestingError: The model is left alone for a while.
        """
        return self._submit(_Job("score", prompts, tuple(choices), copy))

    def generate(self, prompts: Sequence[Prompt]) -> Future[list[ChoiceScores] | list[Completion]]:
        """Queue prompts to be answered; the future yields one `Completion` per prompt.

        Raises:
            OverloadedError: As for `score`.
            RestingError: As for `score`.
        """
        return self._submit(_Job("generate", prompts))

    def note_timeout(self) -> None:
        """Somebody gave up waiting: counts like a failure."""
        self._note(failed=True)

    def close(self, *, timeout: float = 10.0) -> None:
        """Refuse new prompts, fail the waiting ones, finish the batches at work, free the model.

        Args:
            timeout: Seconds that the batches at work may take; a hanging model is left behind.
        """
        with self._changed:
            self._closed = True
            waiting, self._jobs = list(self._jobs), deque()
            self._changed.notify_all()
        for job in waiting:
            job.future.cancel()
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))

    def _submit(self, job: _Job) -> Future[list[ChoiceScores] | list[Completion]]:
        with self._changed:
            if self._closed:
                raise RestingError(
                    needed="a service that runs",
                    received="one that is being shut down",
                    remedy="ask again when it is back",
                )
            if self.circuit_open:
                raise RestingError(
                    needed="a model that answers",
                    received=f"{self._failures} failures in a row",
                    remedy="look at its messages; it is tried again in a moment",
                )
            waiting = self._n_waiting()
            if waiting + len(job.prompts) > self._max_queue:
                raise OverloadedError(
                    needed=f"at most {self._max_queue} prompts that wait for the model",
                    received=f"{waiting} and {len(job.prompts)} more",
                    remedy="ask again in a moment, or ask less",
                )
            self._jobs.append(job)
            self._changed.notify_all()
        return job.future

    def _n_waiting(self) -> int:
        # Those who gave up on a model that hangs take nobody's place.
        self._jobs = deque(job for job in self._jobs if not job.future.cancelled())
        return sum(len(job.prompts) for job in self._jobs)

    def _run(self, copy: int) -> None:
        backend: Backend | None = None
        while batch := self._next_batch(copy):
            try:
                if backend is None:
                    # Loading a model changes settings of the whole process for a moment.
                    with self._opening:
                        backend = self._open_backend()
                        results = self._ask(backend, batch)
                else:
                    results = self._ask(backend, batch)
            except Exception as error:  # noqa: BLE001 - told to everyone who waits for it
                logger.warning("the model failed: %s", error)
                self._note(failed=True)
                for job in batch:
                    job.future.set_exception(error)
            else:
                self.answered = True
                self._note(failed=False)
                for job in batch:
                    job.future.set_result(results[: len(job.prompts)])  # type: ignore[arg-type]
                    results = results[len(job.prompts) :]
        if backend is not None:
            backend.close()

    def _next_batch(self, copy: int) -> list[_Job]:
        """Jobs of one kind that a copy may do, as many as fit; none when the queue is closed."""
        batch: list[_Job] = []
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._closed or self._jobs_for(copy))
                if self._closed:
                    return []
                room = self._max_batch
                for job in self._jobs_for(copy):
                    if not _fits(job, batch, room):
                        break
                    self._jobs.remove(job)
                    # Whoever gave up has cancelled his future.
                    if job.future.set_running_or_notify_cancel():
                        batch.append(job)
                        room -= len(job.prompts)
        return batch

    def _jobs_for(self, copy: int) -> list[_Job]:
        return [job for job in self._jobs if job.copy in {None, copy}]

    def _ask(self, backend: Backend, batch: Sequence[_Job]) -> list[ChoiceScores | Completion]:
        prompts = [prompt for job in batch for prompt in job.prompts]
        self._on_batch(len(prompts))
        answers: Iterable[tuple[int, ChoiceScores]] | Iterable[tuple[int, Completion]]
        if batch[0].kind == "score":
            answers = backend.score(prompts, batch[0].choices)
        else:
            answers = backend.generate(prompts)
        found: dict[int, ChoiceScores | Completion] = dict(answers)
        return [found[place] for place in range(len(prompts))]

    def _note(self, *, failed: bool) -> None:
        with self._changed:
            self._failures = self._failures + 1 if failed else 0
            self._circuit_open_until = 0.0
            if self._failures >= _FAILURES:
                self._circuit_open_until = time.monotonic() + self._rest


def _fits(job: _Job, batch: Sequence[_Job], room: int) -> bool:
    if not batch:
        return True
    alike = (job.kind, job.choices) == (batch[0].kind, batch[0].choices)
    return alike and len(job.prompts) <= room


@final
class QueuedBackend(Backend):
    """A queue as a backend, for the stages' own functions (summaries, preferences) in a thread.

    Args:
        queue: Where the prompts wait.
        fingerprint: What `fingerprint` says.
        timeout: Seconds that an answer may take.
    """

    def __init__(self, queue: ModelQueue, *, fingerprint: str, timeout: float) -> None:
        self._queue = queue
        self._fingerprint = fingerprint
        self._timeout = timeout

    @property
    def fingerprint(self) -> str:
        """The name given to the constructor."""
        return self._fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """Everything may be asked; a model that cannot says so when it is."""
        return Capabilities(images=True, choices=True, adapters=False)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Queue the prompts and wait for their answers."""
        asked = list(prompts)
        answers = self._wait(self._queue.generate(asked)) if asked else []
        yield from enumerate(answers)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Queue the prompts and wait for their scores."""
        asked = list(prompts)
        answers = self._wait(self._queue.score(asked, choices)) if asked else []
        yield from enumerate(answers)

    def close(self) -> None:
        """Nothing is held here."""

    def _wait(
        self, future: Future[list[ChoiceScores] | list[Completion]]
    ) -> list[ChoiceScores] | list[Completion]:
        try:
            return future.result(self._timeout)
        except (TimeoutError, CancelledError) as error:
            future.cancel()
            raise BackendError(
                needed=f"an answer of the model within {self._timeout:g} s",
                received="none",
                remedy="look at the model, or raise the limit",
            ) from error
        except MllmMsrError:
            raise
        except Exception as error:
            raise BackendError(
                needed="an answer of the model",
                received=f"{type(error).__name__}: {error}",
                remedy="look at the model's messages",
            ) from error
