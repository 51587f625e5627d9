"""How the engines of the benchmark `engines` are started and stopped, all with the same weights.

Each engine is a context manager that yields a backend which can be asked at once. None has a reply
cache, and none keeps what it has read of pictures from one call to the next.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from mllm_msr.backends.embedded import EmbeddedBackend
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.openai import OpenAIBackend
from mllm_msr.embedded import weights_folder
from mllm_msr.errors import BackendError, UsageError
from mllm_msr.executors._crew import Ready
from mllm_msr.executors.ray import RayBackend
from mllm_msr.interfaces import Backend

_SERVER_NEEDS: Final = ("fastapi", "uvicorn", "openai")
_ATTEMPTS: Final = 1200


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
    with closing(EmbeddedBackend(**_arguments(threads))) as backend:
        yield backend


@contextmanager
def huggingface(threads: int) -> Iterator[Backend]:
    """The same weights in this process, as any other checkpoint."""
    backend = HuggingFaceBackend(
        str(weights_folder()), dtype="float32", device="cpu", threads=threads
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with _server(address, threads):
        backend = OpenAIBackend(
            str(weights_folder()),
            url=f"http://{address}/v1",
            key_variable="MLLM_MSR_BENCHMARK_HAS_NO_KEY",
            concurrency=clients,
        )
        with closing(backend):
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
    # Half a core for each, so that Ray has place for the next crew on a machine of few cores.
    backend = RayBackend("embedded", _arguments(threads), workers=workers, cpus=0.5, batch=batch)
    with closing(backend):
        # Work begins when the first worker is ready: a small job could be over before the second.
        crew = backend._working_crew()  # noqa: SLF001
        while len(crew.idle()) < workers:
            event = crew.next_event()
            if not isinstance(event, Ready):
                raise BackendError(
                    needed=f"{workers} workers that start",
                    received=str(event),
                    remedy="give the machine more memory, or take fewer workers",
                )
        yield backend


def _arguments(threads: int) -> dict[str, Any]:
    return {"precision": "float32", "device": "cpu", "threads": threads}


@contextmanager
def _server(address: str, threads: int) -> Iterator[None]:
    host, _, port = address.partition(":")
    program = Path(sys.executable).with_name("transformers")
    options = ["--host", host, "--port", port, "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    # Into a file: a pipe that nobody reads is full after 64 kB of warnings, and the server hangs.
    with (
        tempfile.TemporaryFile("w+") as messages,
        subprocess.Popen(
            [program, "serve", str(weights_folder()), *options],
            env=environment,
            stdout=messages,
            stderr=messages,
        ) as process,
    ):
        try:
            if not _answers(f"http://{address}/health", process):
                messages.seek(0)
                raise BackendError(
                    needed="transformers serve on loopback",
                    received=messages.read()[-500:].strip() or "a server that says nothing",
                    remedy="start it by hand to see more",
                )
            yield
        finally:
            process.terminate()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the server answers; whether it does."""
    for _ in range(_ATTEMPTS):
        if process.poll() is not None:
            return False
        try:
            if httpx2.get(url, trust_env=False).status_code == 200:
                return True
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    return False
