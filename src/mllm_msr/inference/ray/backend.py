"""Distributed backend: distributes prompts over Ray actors, each with a copy of one backend.

It implements `Backend`, so the stages that use it (summarize, infer, score) do not depend on Ray.
The run's response cache wraps it, so each response is on the driver's disk shortly after a worker
sends it. If the driver is killed, the next run only repeats unfinished prompts. The lock of the run
folder prevents a second driver. `scheduler.py` handles prompts that kill their workers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast, final

from mllm_msr import registry
from mllm_msr.errors import BackendError
from mllm_msr.inference.ray.actors import ActorPool, Answered, Died, Finished, Ready, Response
from mllm_msr.inference.ray.scheduler import Scheduler
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt

logger = logging.getLogger(__name__)

# Deaths of workers that one prompt may cause, and consecutive deaths without a response.
_MAX_DEATHS_PER_PROMPT: Final = 3
_MAX_CONSECUTIVE_DEATHS: Final = 10


@final
class RayBackend(Backend):
    """Backend that runs copies of another backend on the machines of a Ray cluster.

    Workers read weights, adapters and images from the same paths as the driver. On a cluster, the
    run folder and the model must therefore be on a shared file system.

    Args:
        name: Name of the backend in each worker.
        arguments: Constructor arguments of that backend.
        address: "local" for processes on this machine, "auto" for the cluster on this machine, or
            the address of a cluster.
        workers: Number of workers.
        cpus: CPU cores that Ray reserves for each worker.
        gpus: GPUs that Ray reserves for each worker; may be a fraction.
        batch: Number of prompts that a worker receives at a time.
        startup_timeout: Maximum seconds until the first worker has started.

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
        # Only provides the fingerprint and the capabilities; it receives no prompts.
        self._local = registry.find_backend(name)(**arguments)
        self._name = name
        self._arguments = arguments
        self._pool_options: dict[str, Any] = {
            "address": address,
            "workers": workers,
            "cpus": cpus,
            "gpus": gpus,
            "startup_timeout": startup_timeout,
        }
        self._batch_size = batch
        self._pool: ActorPool | None = None
        self._closed = False

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the workers' backend."""
        return self._local.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """Return the capabilities of the workers' backend."""
        return self._local.capabilities

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer prompts, in order of completion."""
        return cast("Iterator[tuple[int, Completion]]", self._run(prompts, None))

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Score choices, in order of completion."""
        return cast("Iterator[tuple[int, ChoiceScores]]", self._run(prompts, tuple(choices)))

    def start(self) -> None:
        """Wait until every worker has started; otherwise, work begins with the first worker.

        Raises:
            MllmMsrError: Raised by a worker's backend while it is constructed.
            BackendError: The backend is closed, no worker starts in time, or workers repeatedly
                die while they start.
        """
        pool = self._open_pool()
        deaths = 0
        while len(pool.idle()) < self._pool_options["workers"]:
            match pool.next_event():
                case Ready(_, fingerprint):
                    self._check_fingerprint(fingerprint)
                case Died(worker, reason):
                    deaths += 1
                    _replace(pool, worker, reason, deaths=deaths)

    def close(self) -> None:
        """Stop the workers."""
        self._closed = True
        self._local.close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _run(
        self, prompts: Iterable[Prompt], choices: Sequence[str] | None
    ) -> Iterator[tuple[int, Response]]:
        self._check_open()
        scheduler = Scheduler(
            prompts, batch_size=self._batch_size, max_deaths=_MAX_DEATHS_PER_PROMPT
        )
        if scheduler.done:
            return
        message = f"{_MAX_DEATHS_PER_PROMPT} workers died while running only this prompt."
        failure: Response = ChoiceScores((), error=message)
        if choices is None:
            failure = Completion("", finish_reason="error", error=message)
        pool = self._open_pool()
        deaths = 0
        try:
            while not scheduler.done:
                for worker in pool.idle():
                    if batch := scheduler.next_batch(worker):
                        pool.submit(worker, batch, choices)
                match pool.next_event():
                    case Answered(worker, position, response):
                        deaths = 0
                        yield scheduler.complete(worker, position), response
                    case Finished(worker):
                        scheduler.finish_batch(worker)
                    case Ready(_, fingerprint):
                        self._check_fingerprint(fingerprint)
                    case Died(worker, reason):
                        deaths += 1
                        _replace(pool, worker, reason, deaths=deaths)
                        for index in scheduler.record_death(worker):
                            yield index, failure
        finally:
            pool.cancel()

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("The backend is closed. Create a new one.")

    def _open_pool(self) -> ActorPool:
        self._check_open()
        if self._pool is None:
            self._pool = ActorPool(self._name, self._arguments, **self._pool_options)
        return self._pool

    def _check_fingerprint(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise BackendError(
                f"A worker runs the model {fingerprint}, but the driver expects "
                f"{self.fingerprint}. Use the same weights on all machines, and set precision or "
                "dtype explicitly."
            )


def _replace(pool: ActorPool, worker: int, reason: str, *, deaths: int) -> None:
    """Replace a worker that died, unless too many have died in a row."""
    logger.warning("replacing worker %d, which died: %s", worker, reason)
    if deaths > _MAX_CONSECUTIVE_DEATHS:
        raise BackendError(
            f"{deaths} workers died in a row without a response. The last reason: {reason}. Give "
            "each worker more memory (fewer executor.workers, smaller batches) and run the same "
            "command again."
        )
    pool.replace(worker)
