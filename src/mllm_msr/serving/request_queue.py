"""Queue in front of a model: prompts of several requests are answered in one batch.

Each copy of the model is used by one thread only; a small model may be loaded several times, so
that several batches run in parallel. While all copies are busy, prompts wait; the next batch takes
as many as fit, from any request. The length of the queue is limited: further requests fail
immediately instead of waiting too long. After repeated failures or timeouts the circuit opens: for
some seconds, requests fail without waiting.

Lanes get equal shares of the model, measured in tokens, by start-time fair queueing (Goyal, Vin and
Cheng 1996): a client that sends many or long prompts delays its own lane only.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, Final, Literal, final

from mllm_msr.config import tracing
from mllm_msr.errors import BackendError, MllmMsrError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt

logger = logging.getLogger(__name__)

_Method = Literal["score", "generate"]
_Results = list[ChoiceScores] | list[Completion]

_MAX_FAILURES: Final = 3  # in a row, before the circuit opens
_MAX_BATCH_TOKENS: Final = 32_000  # estimated, so that short prompts do not wait for long ones
_BYTES_PER_TOKEN: Final = 4  # rough estimates, which only need to be comparable
_TOKENS_PER_IMAGE: Final = 256


class OverloadedError(BackendError):
    """The queue is full."""


class CircuitOpenError(BackendError):
    """The model is paused after repeated failures, or shut down."""


@dataclass(eq=False)
class _Job:
    """Prompts of one request.

    Attributes:
        method: Method of the backend to call.
        prompts: The prompts.
        choices: Choices to score.
        copy: Index of the copy that must process the job; any copy if `None`.
        lane: Name of the lane.
        start: Tokens that each lane has got when it is this job's turn.
        future: Future of the results, one per prompt.
        caller: Span of the request.
    """

    method: _Method
    prompts: Sequence[Prompt]
    choices: tuple[str, ...] = ()
    copy: int | None = None
    lane: str = ""
    start: float = 0.0
    future: Future[_Results] = field(default_factory=Future)
    caller: Any = field(default_factory=tracing.current)

    @functools.cached_property
    def n_tokens(self) -> int:
        """Return an estimate of the tokens that the model reads and generates."""
        n_tokens = 0
        for prompt in self.prompts:
            texts = prompt.texts
            n_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
            n_tokens += n_bytes // _BYTES_PER_TOKEN + 1
            n_tokens += _TOKENS_PER_IMAGE * (len(prompt.parts) - len(texts))
            if self.method == "generate":
                n_tokens += prompt.max_new_tokens
        return n_tokens


class ModelQueue:
    """Queue and threads of one model; thread-safe.

    Args:
        open_backend: Opens a backend; called in the thread of each copy for its first job.
        copies: Number of backends, each with its own thread.
        max_queue: Maximum number of waiting prompts.
        max_batch: Maximum number of prompts per batch.
        cooldown: Seconds for which the circuit stays open.
        on_batch: Called with the number of prompts of each batch.

    Attributes:
        answered: Whether the model has answered at least once, and is therefore loaded.
        copies: Number of backends.
    """

    def __init__(
        self,
        open_backend: Callable[[], Backend],
        *,
        copies: int = 1,
        max_queue: int = 2000,
        max_batch: int = 64,
        cooldown: float = 10.0,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._open_backend = open_backend
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._cooldown = cooldown
        self._on_batch = on_batch
        self._jobs: deque[_Job] = deque()
        self._now = 0.0  # tokens that each lane has got so far
        self._lanes: dict[str, float] = {}  # tokens of each lane, including waiting jobs
        self._changed = threading.Condition()
        self._closed = False
        self._failures = 0
        self._circuit_open_until = 0.0
        self._loading = threading.Lock()
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
        """Return the number of waiting prompts."""
        with self._changed:
            return self._n_waiting()

    @property
    def circuit_open(self) -> bool:
        """Return whether the circuit is open, so that jobs are rejected."""
        return time.monotonic() < self._circuit_open_until

    def score(
        self,
        prompts: Sequence[Prompt],
        choices: Sequence[str],
        *,
        copy: int | None = None,
        lane: str = "",
    ) -> Future[_Results]:
        """Queue prompts for scoring; the future's result has one `ChoiceScores` per prompt.

        Args:
            prompts: The prompts.
            choices: See `Backend.score`.
            copy: Index of the copy that must score them; any copy by default.
            lane: Lane, such as a user.

        Raises:
            OverloadedError: The queue is full.
            CircuitOpenError: The circuit is open, or the queue is closed.
        """
        return self._submit(_Job("score", prompts, tuple(choices), copy, lane))

    def generate(self, prompts: Sequence[Prompt], *, lane: str = "") -> Future[_Results]:
        """Queue prompts for generation; the future's result has one `Completion` per prompt.

        Args:
            prompts: The prompts.
            lane: Lane, such as a kind of request.

        Raises:
            OverloadedError: The queue is full.
            CircuitOpenError: The circuit is open, or the queue is closed.
        """
        return self._submit(_Job("generate", prompts, lane=lane))

    def record_timeout(self) -> None:
        """Count the timeout of a caller as a failure of the model."""
        self._record(failed=True)

    def close(self, *, timeout: float = 10.0) -> None:
        """Reject new jobs, cancel waiting ones, finish the running batches and free the model.

        Args:
            timeout: Seconds to wait for the running batches; a blocked model is abandoned.
        """
        with self._changed:
            self._closed = True
            waiting, self._jobs = list(self._jobs), deque()
            self._changed.notify_all()
        for job in waiting:
            job.future.cancel()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _submit(self, job: _Job) -> Future[_Results]:
        with self._changed:
            if self._closed:
                raise CircuitOpenError("The service is shutting down. Try again later.")
            if self.circuit_open:
                raise CircuitOpenError(
                    f"The model has failed {self._failures} times in a row and is paused for a few "
                    "seconds. Check the log of the service."
                )
            waiting = self._n_waiting()
            if waiting + len(job.prompts) > self._max_queue:
                raise OverloadedError(
                    f"At most {self._max_queue} prompts may wait for the model; {waiting} are "
                    f"waiting and {len(job.prompts)} more were requested. Try again in a moment, "
                    "or request fewer items."
                )
            if not self._jobs:
                self._now, self._lanes = 0.0, {}
            job.start = max(self._now, self._lanes.get(job.lane, 0.0))
            self._lanes[job.lane] = job.start + job.n_tokens
            self._jobs.append(job)
            self._changed.notify_all()
        return job.future

    def _n_waiting(self) -> int:
        # Jobs that were canceled by their callers do not count.
        self._jobs = deque(job for job in self._jobs if not job.future.cancelled())
        return sum(len(job.prompts) for job in self._jobs)

    def _run(self, copy: int) -> None:
        backend: Backend | None = None
        while batch := self._next_batch(copy):
            try:
                if backend is None:
                    # Load one at a time: loading a model temporarily changes global settings.
                    with self._loading:
                        backend = self._open_backend()
                        results = self._answer(backend, batch)
                else:
                    results = self._answer(backend, batch)
            except Exception as error:
                unexpected = not isinstance(error, MllmMsrError)
                logger.warning("The model failed: %s", error, exc_info=unexpected)
                self._record(failed=True)
                for job in batch:
                    job.future.set_exception(error)
            else:
                self.answered = True
                self._record(failed=False)
                for job in batch:
                    job.future.set_result(results[: len(job.prompts)])  # type: ignore[arg-type]
                    results = results[len(job.prompts) :]
        if backend is not None:
            backend.close()

    def _next_batch(self, copy: int) -> list[_Job]:
        """Wait for jobs of one kind for a copy; return an empty list if the queue is closed."""
        batch: list[_Job] = []
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._closed or self._jobs_for(copy))
                if self._closed:
                    return []
                room, token_room = self._max_batch, _MAX_BATCH_TOKENS
                for job in sorted(self._jobs_for(copy), key=lambda job: job.start):
                    # A job that is larger than a batch is a separate batch.
                    if batch and (
                        len(job.prompts) > room
                        or job.n_tokens > token_room
                        or (job.method, job.choices) != (batch[0].method, batch[0].choices)
                    ):
                        break
                    self._jobs.remove(job)
                    # False if the caller has canceled the future.
                    if job.future.set_running_or_notify_cancel():
                        self._now = max(self._now, job.start)
                        batch.append(job)
                        room -= len(job.prompts)
                        token_room -= job.n_tokens
        return batch

    def _jobs_for(self, copy: int) -> list[_Job]:
        return [job for job in self._jobs if job.copy in {None, copy}]

    def _answer(self, backend: Backend, batch: Sequence[_Job]) -> list[ChoiceScores | Completion]:
        prompts = [prompt for job in batch for prompt in job.prompts]
        self._on_batch(len(prompts))
        answers: Iterable[tuple[int, ChoiceScores]] | Iterable[tuple[int, Completion]]
        callers = [job.caller for job in batch]
        with tracing.model_call(batch[0].method, callers=callers, prompts=len(prompts)):
            if batch[0].method == "score":
                answers = backend.score(prompts, batch[0].choices)
            else:
                answers = backend.generate(prompts)
            by_index: dict[int, ChoiceScores | Completion] = dict(answers)
        return [by_index[index] for index in range(len(prompts))]

    def _record(self, *, failed: bool) -> None:
        with self._changed:
            self._failures = self._failures + 1 if failed else 0
            self._circuit_open_until = 0.0
            if self._failures >= _MAX_FAILURES:
                self._circuit_open_until = time.monotonic() + self._cooldown


@final
class QueuedBackend(Backend):
    """Backend that puts its prompts into a queue, so that stage functions can use it in a thread.

    Args:
        queue: The queue.
        fingerprint: Fingerprint of the model.
        timeout: Seconds to wait for the results of a call.
        lane: Lane of the prompts.
    """

    def __init__(
        self, queue: ModelQueue, *, fingerprint: str, timeout: float, lane: str = ""
    ) -> None:
        self._queue = queue
        self._fingerprint = fingerprint
        self._timeout = timeout
        self._lane = lane

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the model."""
        return self._fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """Return all capabilities; using one that the model lacks raises an error."""
        return Capabilities(images=True, choices=True, adapters=False)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Queue the prompts and wait for their completions."""
        queued = list(prompts)
        answers = self._wait(self._queue.generate(queued, lane=self._lane)) if queued else []
        yield from enumerate(answers)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Queue the prompts and wait for their scores."""
        queued = list(prompts)
        answers = self._wait(self._queue.score(queued, choices, lane=self._lane)) if queued else []
        yield from enumerate(answers)

    def close(self) -> None:
        """Do nothing: the owner of the queue closes it."""

    def _wait(self, future: Future[_Results]) -> _Results:
        try:
            return future.result(self._timeout)
        except (TimeoutError, CancelledError) as error:
            future.cancel()
            raise BackendError(
                f"The model did not respond within {self._timeout:g} s. Check the log of the "
                "service and the load of the model."
            ) from error
        except MllmMsrError:
            raise
        except Exception as error:
            raise BackendError(
                f"The model failed: {str(error) or 'unknown error'}. Check the log of the service."
            ) from error
