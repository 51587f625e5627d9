"""A backend on many machines: prompts are spread over Ray's actors, each holding the same backend.

It is a `Backend` like any other, so the bulk stages (summarize, infer, score) know nothing of it,
and the run's response cache stands in front of it: each response is on the driver's disk a moment after
a worker has sent it. A driver that is killed therefore asks only what was under way again, and a
second one is refused by the run folder's lock. Rows fail alone: see `_scheduler.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast, final

from mllm_msr import registry
from mllm_msr.errors import BackendError
from mllm_msr.inference.ray.actors import ActorPool, Answered, CachedResponse, Died, Finished, Ready
from mllm_msr.inference.ray.scheduler import Scheduler
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt

logger = logging.getLogger(__name__)

# Workers that may die over one prompt, and one after another without any answer in between.
_LIVES: Final = 3
_DEATHS_IN_A_ROW: Final = 10


@final
class RayBackend(Backend):
    """Any backend, several times, on the machines of a Ray cluster.

    Weights, adapters and images are read by the workers under the paths that they have here, so
    on a cluster the run folder and the model lie on a file system that all machines share.

    Args:
        name: Name of the backend that each worker holds.
        arguments: Its constructor's arguments.
        address: "local" for processes of this machine, "auto" for the cluster that it belongs
            to, or a cluster's address.
        workers: How many workers.
        cpus: Cores that Ray sets aside for each.
        gpus: GPUs that Ray sets aside for each; may be a part of one.
        batch: Prompts that a worker is given at a time.
        startup_timeout: Seconds within which the first worker must have started.

    Raises:
        UnknownNameError: There is no such backend.
    """

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        address: str = "local",
        workers: int = 2,
        cpus: float = 1.0,
        gpus: float = 0.0,
        batch: int = 64,
        startup_timeout: float = 300.0,
    ) -> None:
        # Never asked: it says what the workers' answers may be kept under, and what they can do.
        self._here = cast("Backend", registry.find("backends", name)(**arguments))
        self._name = name
        self._arguments = arguments
        self._place: dict[str, Any] = {
            "address": address,
            "workers": workers,
            "cpus": cpus,
            "gpus": gpus,
            "startup_timeout": startup_timeout,
        }
        self._batch = batch
        self._pool: ActorPool | None = None
        self._closed = False

    @property
    def fingerprint(self) -> str:
        """That of the workers' backend: where it runs does not change its answers."""
        return self._here.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """Those of the workers' backend."""
        return self._here.capabilities

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer prompts, each as soon as a worker has."""
        return cast("Iterator[tuple[int, Completion]]", self._spread(prompts, None))

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Score choices, each prompt's as soon as a worker has."""
        return cast("Iterator[tuple[int, ChoiceScores]]", self._spread(prompts, tuple(choices)))

    def start(self) -> None:
        """Wait until every worker has started; without it, work begins with the first that has.

        Raises:
            MllmMsrError: What a worker's backend raises while it is made.
            BackendError: The backend is closed, no worker starts in time, or workers die again
                and again while they start.
        """
        pool = self._working_pool()
        deaths = 0
        while len(pool.idle()) < self._place["workers"]:
            match pool.next_event():
                case Ready(_, fingerprint):
                    self._check(fingerprint)
                case Died(worker, reason):
                    deaths += 1
                    _replace(pool, worker, reason, deaths=deaths)

    def close(self) -> None:
        """End the workers."""
        self._closed = True
        self._here.close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _spread(
        self, prompts: Iterable[Prompt], choices: Sequence[str] | None
    ) -> Iterator[tuple[int, CachedResponse]]:
        self._refuse_closed()
        scheduler = Scheduler(prompts, size=self._batch, lives=_LIVES)
        if scheduler.done:
            return
        pool = self._working_pool()
        deaths = 0
        try:
            while not scheduler.done:
                for worker in pool.idle():
                    if batch := scheduler.take(worker):
                        pool.ask(worker, batch, choices)
                match pool.next_event():
                    case Answered(worker, place, response):
                        deaths = 0
                        yield scheduler.settle(worker, place), response
                    case Finished(worker):
                        scheduler.finish(worker)
                    case Ready(_, fingerprint):
                        self._check(fingerprint)
                    case Died(worker, reason):
                        deaths += 1
                        _replace(pool, worker, reason, deaths=deaths)
                        for index in scheduler.bury(worker):
                            yield index, _given_up(choices)
        finally:
            pool.abandon()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise BackendError(
                needed="an open backend", received="a closed one", remedy="make a new one"
            )

    def _working_pool(self) -> ActorPool:
        self._refuse_closed()
        if self._pool is None:
            self._pool = ActorPool(self._name, self._arguments, **self._place)
        return self._pool

    def _check(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise BackendError(
                needed=f"workers with {self.fingerprint}",
                received=f"one with {fingerprint}",
                remedy="give all machines the same weights, and set precision or dtype by name",
            )


def _replace(pool: ActorPool, worker: int, reason: str, *, deaths: int) -> None:
    """Hire another worker, unless too many have died in a row."""
    logger.warning("worker %d has died, another one starts: %s", worker, reason)
    if deaths > _DEATHS_IN_A_ROW:
        raise BackendError(
            needed="workers that live",
            received=f"{deaths} deaths without an answer in between, the last: {reason}",
            remedy="give each more memory (fewer executor.workers, smaller batches), and go on",
        )
    pool.replace(worker)


def _given_up(choices: Sequence[str] | None) -> CachedResponse:
    reason = f"{_LIVES} workers died over this prompt alone"
    if choices is None:
        return Completion("", finish_reason="error", error=reason)
    return ChoiceScores((), error=reason)
