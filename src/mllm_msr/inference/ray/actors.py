"""Pool of Ray actors with one backend each.

Ray only starts processes, sends prompts to them and streams each response back as soon as it is
available; on its own, it could repeat or drop rows. `scheduler.py` assigns the prompts to workers,
and the run's response cache stores the responses like those of any backend.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mllm_msr import errors, registry
from mllm_msr.errors import BackendError, MissingExtraError, MllmMsrError, first_line
from mllm_msr.interfaces import Backend
from mllm_msr.types import ChoiceScores, Completion, Prompt

Response = Completion | ChoiceScores

# The minimum that Ray accepts. Only prompts and responses pass through the object store.
_OBJECT_STORE_BYTES: Final = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Ready:
    """Event: a worker has constructed its backend, which has this fingerprint."""

    worker: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Event: a worker has answered the prompt at this position of its batch."""

    worker: int
    position: int
    response: Response


@dataclass(frozen=True, slots=True)
class Finished:
    """Event: a worker has finished its batch and is idle."""

    worker: int


@dataclass(frozen=True, slots=True)
class Died:
    """Event: a worker's process has ended."""

    worker: int
    reason: str


Event = Ready | Answered | Finished | Died


@dataclass(frozen=True, slots=True)
class RemoteError:
    """An error of this package in a form that can be sent between processes."""

    kind: str
    message: str

    @classmethod
    def from_error(cls, error: MllmMsrError) -> RemoteError:
        """Convert an error for sending."""
        return cls(type(error).__name__, error.message)

    def to_error(self) -> MllmMsrError:
        """Restore the error."""
        kind: type[MllmMsrError] = getattr(errors, self.kind, BackendError)
        error = kind.__new__(kind)
        # Skip the constructors of subclasses, which may build the message from other arguments.
        MllmMsrError.__init__(error, self.message)
        return error


class Worker:
    """Ray actor with one backend.

    Args:
        name: Name of the backend.
        arguments: Constructor arguments of the backend.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self._name = name
        self._arguments = arguments

    @functools.cached_property
    def _backend(self) -> Backend:
        return registry.find_backend(self._name)(**self._arguments)

    def fingerprint(self) -> str | RemoteError:
        """Construct the backend and return its fingerprint."""
        try:
            return self._backend.fingerprint
        except MllmMsrError as error:
            return RemoteError.from_error(error)

    def run(
        self, prompts: Sequence[Prompt], choices: Sequence[str] | None
    ) -> Iterator[tuple[int, Response] | RemoteError]:
        """Answer prompts, or score choices if given, and yield each response immediately."""
        responses: Iterator[tuple[int, Response]]
        try:
            if choices is None:
                responses = self._backend.generate(prompts)
            else:
                responses = self._backend.score(prompts, choices)
            # Ray sends values into this generator. `yield from` would pass them on to an iterator
            # that may not accept them.
            for position, response in responses:  # noqa: UP028
                yield position, response
        except MllmMsrError as error:
            yield RemoteError.from_error(error)


class ActorPool:
    """Pool of workers, all of which start when the pool is constructed.

    Args:
        name: Name of their backend.
        arguments: Constructor arguments of the backend.
        address: "local" for processes on this machine, "auto" for the cluster on this machine, or
            the address of a cluster.
        workers: Number of workers.
        cpus: CPU cores that Ray reserves for each worker.
        gpus: GPUs that Ray reserves for each worker; may be a fraction.
        startup_timeout: Maximum seconds until the first worker has started.

    Raises:
        MissingExtraError: Ray is not installed.
        BackendError: There is no cluster at the address.
    """

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        address: str,
        workers: int,
        cpus: float,
        gpus: float,
        startup_timeout: float,
    ) -> None:
        self._ray = _connect(address, n_cores=math.ceil(workers * cpus))
        self._actor = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(Worker)
        self._worker_arguments = (name, dict(arguments))
        self._requested = f"{workers} workers with {cpus:g} cores and {gpus:g} GPUs each"
        self._startup_timeout = startup_timeout
        self._ids = itertools.count()
        self._handles: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}  # the worker of each remote call that Ray waits for
        self._idle: list[int] = []
        self._started = False
        for _ in range(workers):
            self._start_worker()

    def idle(self) -> list[int]:
        """Return the workers that have started and have no batch."""
        return list(self._idle)

    def submit(self, worker: int, prompts: Sequence[Prompt], choices: Sequence[str] | None) -> None:
        """Send a batch to an idle worker; `next_event` returns its responses."""
        self._idle.remove(worker)
        run = self._handles[worker].run.options(num_returns="streaming")
        self._calls[run.remote(list(prompts), choices)] = worker

    def next_event(self) -> Event:
        """Wait for the next event of any worker.

        Raises:
            MllmMsrError: Raised by a worker's backend.
            BackendError: No worker has started in time, or a worker has failed otherwise.
        """
        ready, _ = self._ray.wait(
            list(self._calls), timeout=None if self._started else self._startup_timeout
        )
        if not ready:
            found = self._ray.cluster_resources()
            raise BackendError(
                f"No worker has started within {self._startup_timeout:g} seconds. Requested: "
                f"{self._requested}. The cluster has {found.get('CPU', 0):g} cores and "
                f"{found.get('GPU', 0):g} GPUs. Reduce executor.workers, executor.cpus or "
                "executor.gpus, or wait."
            )
        call = ready[0]
        worker = self._calls[call]
        try:
            return self._event(call, worker)
        except self._ray.exceptions.RayTaskError as error:
            raise BackendError(
                f"A worker failed: {str(error).strip().splitlines()[-1]}. To debug the backend, "
                "run it with executor.name=local."
            ) from error
        except self._ray.exceptions.RayError as error:
            del self._calls[call]
            return Died(worker, first_line(error))

    def replace(self, worker: int) -> None:
        """Stop a worker, even if it is running, and start a new one."""
        self._stop_worker(worker)
        self._start_worker()

    def cancel(self) -> None:
        """Cancel all batches by replacing the workers that run them."""
        for worker in [worker for call, worker in self._calls.items() if self._is_batch(call)]:
            self.replace(worker)

    def close(self) -> None:
        """Stop all workers. Ray keeps running for the next pool of this process."""
        for worker in list(self._handles):
            self._stop_worker(worker)

    def _start_worker(self) -> None:
        worker = next(self._ids)
        self._handles[worker] = handle = self._actor.remote(*self._worker_arguments)
        self._calls[handle.fingerprint.remote()] = worker

    def _stop_worker(self, worker: int) -> None:
        self._calls = {call: owner for call, owner in self._calls.items() if owner != worker}
        if worker in self._idle:
            self._idle.remove(worker)
        self._ray.kill(self._handles.pop(worker))

    def _is_batch(self, call: Any) -> bool:
        return isinstance(call, self._ray.ObjectRefGenerator)

    def _event(self, call: Any, worker: int) -> Event:
        if not self._is_batch(call):
            fingerprint = _raise_remote(self._ray.get(call))
            self._mark_idle(call, worker)
            self._started = True
            return Ready(worker, fingerprint)
        try:
            reference = next(call)
        except StopIteration:
            self._mark_idle(call, worker)
            return Finished(worker)
        return Answered(worker, *_raise_remote(self._ray.get(reference)))

    def _mark_idle(self, call: Any, worker: int) -> None:
        del self._calls[call]
        self._idle.append(worker)


def _raise_remote(value: Any) -> Any:
    """Return a value from a worker, or raise it if it is an error."""
    if isinstance(value, RemoteError):
        raise value.to_error()
    return value


def _connect(address: str, *, n_cores: int) -> Any:
    """Connect to Ray unless this process is connected already, and return the module `ray`."""
    # By default Ray sends usage statistics to its developers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    if ray.is_initialized():
        return ray
    local: dict[str, Any] = {}
    if address == "local":
        local = {
            "num_cpus": max(n_cores, os.cpu_count() or 1),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **local)
    except Exception as error:  # Ray also raises bare exceptions
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendError(
            f"There is no Ray cluster at executor.address={address}: {reason.rstrip('.')}. Start "
            "one with 'ray start' or set executor.address=local."
        ) from error
    return ray
