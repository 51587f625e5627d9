"""Engines of the benchmark `engines`, which all use the same weights.

Each engine is a context manager that yields a backend and stops the engine on exit. No engine has
a response cache or caches image features between calls.
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

from benchmarks._server_process import free_address, run_server
from benchmarks._vllm import Server, serve
from benchmarks._vllm_checkpoint import convert_checkpoint
from mllm_msr.backends.demo import DemoBackend
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.openai import OpenAIBackend
from mllm_msr.demo_model import weights_folder
from mllm_msr.errors import UsageError
from mllm_msr.inference.ray.backend import RayBackend
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt

_SERVER_PACKAGES: Final = ("fastapi", "uvicorn", "openai")


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that can be started.

    Attributes:
        name: Name in the results.
        start: Starts the engine; exiting the context stops it.
    """

    name: str
    start: Callable[[], AbstractContextManager[Backend]]


@contextmanager
def in_process(threads: int) -> Iterator[Backend]:
    """Run the demo model in this process."""
    with closing(DemoBackend(**_demo_options(threads))) as backend:
        yield backend


@contextmanager
def huggingface(threads: int) -> Iterator[Backend]:
    """Run the demo model in this process with the backend `huggingface`."""
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
    """Run `transformers serve` on loopback, called through the backend `openai`.

    Args:
        threads: Threads of the server.
        clients: Maximum number of concurrent requests.

    Raises:
        UsageError: The server's packages are not installed.
        BackendError: The server does not start.
    """
    for package in _SERVER_PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"transformers serve requires the package {package!r}, which is not installed. "
                "Run: pip install 'transformers[serving]'"
            )
    address = free_address()
    program = Path(sys.executable).with_name("transformers")
    options = ["--host", "127.0.0.1", "--port", address.partition(":")[2]]
    with run_server(
        [program, "serve", weights_folder(), *options, "--device", "cpu", "--dtype", "float32"],
        {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)},
        name="transformers serve",
        health_url=f"http://{address}/health",
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
    """Run vLLM's server on loopback, called through the backend `openai`.

    Args:
        threads: Threads of the server.
        clients: Maximum number of concurrent requests.

    Raises:
        UsageError: vLLM's environment does not exist.
        BackendError: The server does not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = convert_checkpoint(weights_folder(), Path(folder) / "checkpoint")
        with (
            serve(checkpoint, threads=threads, clients=clients) as server,
            closing(_ResettingBackend(server, clients=clients)) as backend,
        ):
            yield backend


@contextmanager
def ray(threads: int, *, workers: int, batch: int) -> Iterator[Backend]:
    """Run the demo model in Ray workers on this machine.

    Args:
        threads: Threads per worker.
        workers: Number of workers.
        batch: Number of prompts that a worker receives at a time.

    Raises:
        MissingExtraError: Ray is not installed.
        BackendError: A worker does not start.
    """
    # With half a core per worker, the next pool also fits on a machine with few cores.
    backend = RayBackend("demo", _demo_options(threads), workers=workers, cpus=0.5, batch=batch)
    with closing(backend):
        # Otherwise the first worker could finish all prompts before the second one is ready.
        backend.start()
        yield backend


def _demo_options(threads: int) -> dict[str, Any]:
    # All repeats have the same prompts, so drafts from earlier answers would always be accepted.
    return {"precision": "float32", "device": "cpu", "threads": threads, "speculative_tokens": 0}


@final
class _ResettingBackend(Backend):
    """Backend that resets a vLLM server's caches before every call.

    Args:
        server: The server.
        clients: Maximum number of concurrent requests.
    """

    def __init__(self, server: Server, *, clients: int) -> None:
        self._server = server
        self._backend = server.backend(clients=clients)

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the wrapped backend."""
        return self._backend.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """Return the capabilities of the wrapped backend."""
        return self._backend.capabilities

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Reset the caches and generate answers."""
        self._server.reset_caches()
        return self._backend.generate(prompts)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Reset the caches and score prompts."""
        self._server.reset_caches()
        return self._backend.score(prompts, choices)

    def close(self) -> None:
        """Close the wrapped backend; the server keeps running."""
        self._backend.close()
