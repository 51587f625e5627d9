"""Ray's actors, each holding one backend: the half of the executor that makes the remote calls.

Ray alone recomputes, doubles and drops rows. Here it only starts processes, carries prompts to
them and streams every answer back the moment it is there; who is asked what is `_scheduler.py`, and
what is answered goes through the run's response cache like any other answer.
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
from mllm_msr.errors import BackendError, MissingExtraError, MllmMsrError
from mllm_msr.interfaces import Backend
from mllm_msr.types import ChoiceScores, Completion, Prompt

CachedResponse = Completion | ChoiceScores

# Only prompts and responses pass through Ray's memory: the least that it accepts is plenty.
_OBJECT_STORE_BYTES: Final = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has constructed its backend, whose fingerprint this is."""

    worker: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A worker has answered the prompt at this place of its batch."""

    worker: int
    place: int
    response: CachedResponse


@dataclass(frozen=True, slots=True)
class Finished:
    """A worker has ended its batch and is idle."""

    worker: int


@dataclass(frozen=True, slots=True)
class Died:
    """A worker's process is gone."""

    worker: int
    reason: str


Event = Ready | Answered | Finished | Died


@dataclass(frozen=True, slots=True)
class Refusal:
    """Error of this package, as it is sent out of a worker's process."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: MllmMsrError) -> Refusal:
        """What can be sent of an error."""
        return cls(type(error).__name__, error.message)

    def error(self) -> MllmMsrError:
        """The error again."""
        kind: type[MllmMsrError] = getattr(errors, self.kind, BackendError)
        made = kind.__new__(kind)
        # Some subclasses build their message from other arguments; here it is already built.
        MllmMsrError.__init__(made, self.message)
        return made


class Worker:
    """What runs in an actor: one backend.

    Args:
        name: The backend's name.
        arguments: Its constructor's arguments.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self._name = name
        self._arguments = arguments

    @functools.cached_property
    def _backend(self) -> Backend:
        made: Backend = registry.find("backends", self._name)(**self._arguments)
        return made

    def hello(self) -> str | Refusal:
        """The backend's fingerprint."""
        try:
            return self._backend.fingerprint
        except MllmMsrError as error:
            return Refusal.of(error)

    def answer(
        self, prompts: Sequence[Prompt], choices: Sequence[str] | None
    ) -> Iterator[tuple[int, CachedResponse] | Refusal]:
        """Answer prompts, or score choices where there are any; each response is sent at once."""
        responses: Iterator[tuple[int, CachedResponse]]
        try:
            if choices is None:
                responses = self._backend.generate(prompts)
            else:
                responses = self._backend.score(prompts, choices)
            # Ray sends values into this generator, which `yield from` would pass on to iterators
            # that take none.
            for place, response in responses:  # noqa: UP028
                yield place, response
        except MllmMsrError as error:
            yield Refusal.of(error)


class ActorPool:
    """Workers in actors; made with all of them on their way.

    Args:
        name: Name of their backend.
        arguments: Its constructor's arguments.
        address: "local" for processes of this machine, "auto" for the cluster that it belongs
            to, or a cluster's address.
        workers: How many.
        cpus: Cores that Ray sets aside for each.
        gpus: GPUs that Ray sets aside for each; may be a part of one.
        startup_timeout: Seconds within which the first of them must have started.

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
        self._ray = _connected(address, cores=math.ceil(workers * cpus))
        self._actor = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(Worker)
        self._of_worker = (name, dict(arguments))
        self._wish = f"{workers} workers with {cpus:g} cores and {gpus:g} GPUs each"
        self._startup_timeout = startup_timeout
        self._numbers = itertools.count()
        self._handles: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}  # what Ray waits for, and whose it is
        self._idle: list[int] = []
        self._started = False
        for _ in range(workers):
            self._hire()

    def idle(self) -> list[int]:
        """Workers that have started and have nothing to do."""
        return list(self._idle)

    def ask(self, worker: int, prompts: Sequence[Prompt], choices: Sequence[str] | None) -> None:
        """Give an idle worker a batch; its answers are events."""
        self._idle.remove(worker)
        answer = self._handles[worker].answer.options(num_returns="streaming")
        self._calls[answer.remote(list(prompts), choices)] = worker

    def next_event(self) -> Event:
        """Wait until something happens.

        Raises:
            MllmMsrError: What a worker's backend has raised.
            BackendError: No worker has started in time, or one has failed otherwise.
        """
        ready, _ = self._ray.wait(
            list(self._calls), timeout=None if self._started else self._startup_timeout
        )
        if not ready:
            raise BackendError(
                needed=f"a place for {self._wish} within {self._startup_timeout:g} s",
                received=f"none in a cluster with {_resources(self._ray)}",
                remedy="lower executor.workers, executor.cpus or executor.gpus, or wait",
            )
        call = ready[0]
        worker = self._calls[call]
        try:
            return self._event(call, worker)
        except self._ray.exceptions.RayTaskError as error:
            raise BackendError(
                needed="a worker that answers or says why not",
                received=f"one that failed with {str(error).strip().splitlines()[-1]}",
                remedy="read the traceback above, and try the backend with executor.name=local",
            ) from error
        except self._ray.exceptions.RayError as error:
            del self._calls[call]
            return Died(worker, str(error).strip().splitlines()[0])

    def replace(self, worker: int) -> None:
        """Put a new worker in the place of one, whatever it is doing."""
        self._dismiss(worker)
        self._hire()

    def abandon(self) -> None:
        """Let go of what is still asked: workers that are at it are replaced."""
        for worker in [worker for call, worker in self._calls.items() if self._streams(call)]:
            self.replace(worker)

    def close(self) -> None:
        """End all workers; Ray itself stays for the next pool of this process."""
        for worker in list(self._handles):
            self._dismiss(worker)

    def _hire(self) -> None:
        worker = next(self._numbers)
        self._handles[worker] = handle = self._actor.remote(*self._of_worker)
        self._calls[handle.hello.remote()] = worker

    def _dismiss(self, worker: int) -> None:
        self._calls = {call: owner for call, owner in self._calls.items() if owner != worker}
        if worker in self._idle:
            self._idle.remove(worker)
        self._ray.kill(self._handles.pop(worker))

    def _streams(self, call: Any) -> bool:
        return isinstance(call, self._ray.ObjectRefGenerator)

    def _event(self, call: Any, worker: int) -> Event:
        if not self._streams(call):
            fingerprint = _checked(self._ray.get(call))
            self._rest(call, worker)
            self._started = True
            return Ready(worker, fingerprint)
        try:
            reference = next(call)
        except StopIteration:
            self._rest(call, worker)
            return Finished(worker)
        return Answered(worker, *_checked(self._ray.get(reference)))

    def _rest(self, call: Any, worker: int) -> None:
        del self._calls[call]
        self._idle.append(worker)


def _checked(value: Any) -> Any:
    if isinstance(value, Refusal):
        raise value.error()
    return value


def _connected(address: str, *, cores: int) -> Any:
    """The module `ray`, connected; a connection of this process is used again."""
    # Ray would otherwise send statistics of its use to its makers.
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
            "num_cpus": max(cores, os.cpu_count() or 1),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **local)
    except Exception as error:  # Ray raises bare ones as well
        raise BackendError(
            needed=f"a Ray cluster at executor.address={address}",
            received=(str(error).strip().splitlines() or [type(error).__name__])[0],
            remedy="start one with 'ray start', or use executor.address=local",
        ) from error
    return ray


def _resources(ray: Any) -> str:
    found = ray.cluster_resources()
    return f"{found.get('CPU', 0):g} cores and {found.get('GPU', 0):g} GPUs"
