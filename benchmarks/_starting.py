"""How the engines of the benchmark `engines` are started and stopped, all with the same weights.

Each engine is a context manager that yields a backend which can be asked at once. None has a response
cache, and none keeps what it has read of images from one call to the next.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from benchmarks._loopback import free_address, running
from benchmarks._vllm import Server, serving
from benchmarks._vllm_checkpoint import readable
from mllm_msr.backends.demo import DemoBackend
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.openai import OpenAIBackend
from mllm_msr.demo_model import weights_folder
from mllm_msr.errors import UsageError
from mllm_msr.inference.ray.backend import RayBackend
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt

_SERVER_NEEDS: Final = ("fastapi", "uvicorn", "openai")


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that can be started.

    Attributes:
        name: Its name in the results.
        start: Starts it, and stops it at the end.
    """

    name: str
    start: Callable[[], AbstractContextManager[Backend]]


@contextmanager
def in_process(threads: int) -> Iterator[Backend]:
    """The packaged model in this process."""
    with closing(DemoBackend(**_arguments(threads))) as backend:
        yield backend


@contextmanager
def huggingface(threads: int) -> Iterator[Backend]:
    """The same weights in this process, as any other checkpoint."""
    backend = HuggingFaceBackend(
        str(weights_folder()),
        dtype="float32",
        device="cpu",
        threads=threads,
        speculative_tokens=0,
    )
    with closing(backend):
        yield backend


@contextmanager
def transformers_serve(threads: int, *, clients: int) -> Iterator[Backend]:
    """The backend `openai` before `transformers serve` on loopback.

    Args:
        threads: Threads of the server.
        clients: Most requests under way.

    Raises:
        UsageError: The server's packages are not installed.
        BackendError: It does not start.
    """
    for package in _SERVER_NEEDS:
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                needed=f"the package {package!r} for transformers serve",
                received="an environment without it",
                remedy="run: pip install 'transformers[serving]'",
            )
    address = free_address()
    program = Path(sys.executable).with_name("transformers")
    options = ["--host", "127.0.0.1", "--port", address.partition(":")[2]]
    with running(
        [program, "serve", weights_folder(), *options, "--device", "cpu", "--dtype", "float32"],
        {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)},
        name="transformers serve",
        health=f"http://{address}/health",
    ):
        backend = OpenAIBackend(
            str(weights_folder()),
            url=f"http://{address}/v1",
            key_variable="MLLM_MSR_BENCHMARK_HAS_NO_KEY",
            concurrency=clients,
        )
        with closing(backend):
            yield backend


@contextmanager
def vllm(threads: int, *, clients: int) -> Iterator[Backend]:
    """The backend `openai` before vLLM's server on loopback.

    Args:
        threads: Threads of the server.
        clients: Most requests under way.

    Raises:
        UsageError: vLLM's environment is not there.
        BackendError: The server does not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = readable(weights_folder(), Path(folder) / "checkpoint")
        with (
            serving(checkpoint, threads=threads, clients=clients) as server,
            closing(_Forgetting(server, clients=clients)) as backend,
        ):
            yield backend


@contextmanager
def ray(threads: int, *, workers: int, batch: int) -> Iterator[Backend]:
    """The packaged model in Ray's workers on this machine.

    Args:
        threads: Threads of each worker.
        workers: How many.
        batch: Prompts that a worker is given at a time.

    Raises:
        MissingExtraError: Ray is not installed.
        BackendError: A worker does not start.
    """
    # Half a core for each, so that Ray has place for the next pool on a machine of few cores.
    backend = RayBackend("demo", _arguments(threads), workers=workers, cpus=0.5, batch=batch)
    with closing(backend):
        # Work begins when the first worker is ready: a small job could be over before the second.
        backend.start()
        yield backend


def _arguments(threads: int) -> dict[str, Any]:
    # Every round asks the same: what was written in the one before must not help to guess.
    return {"precision": "float32", "device": "cpu", "threads": threads, "speculative_tokens": 0}


@final
class _Forgetting(Backend):
    """A backend before a server that forgets what it has read whenever it is asked anew.

    Args:
        server: The server.
        clients: Most requests under way.
    """

    def __init__(self, server: Server, *, clients: int) -> None:
        self._server = server
        self._backend = server.backend(clients=clients)

    @property
    def fingerprint(self) -> str:
        """The backend's."""
        return self._backend.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """The backend's."""
        return self._backend.capabilities

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer by the backend."""
        self._server.forget()
        return self._backend.generate(prompts)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Score by the backend."""
        self._server.forget()
        return self._backend.score(prompts, choices)

    def close(self) -> None:
        """Close the backend; the server is not its own."""
        self._backend.close()
