"""Servers on loopback: started, waited for, and ended with all that they have started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx2

from mllm_msr.errors import BackendError

_PAUSE: Final = 0.1
_FAREWELL: Final = 20.0
_EXCERPT: Final = 500


def free_address() -> str:
    """An address of this machine at which nothing listens ("127.0.0.1:38211")."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def running(
    command: Sequence[str | Path],
    variables: Mapping[str, str],
    *,
    name: str,
    health: str,
    early_stopping_patience: float = 120.0,
) -> Iterator[None]:
    """Run a server for the time of a block.

    Args:
        command: Program and arguments.
        variables: What its environment has besides ours.
        name: What to call it in an error.
        health: Address that answers 200 once it can be asked.
        early_stopping_patience: Seconds within which it must.

    Raises:
        BackendError: It does not start; the end of what it said is in the message.
    """
    # Into a file: a pipe that nobody reads is full after 64 kB of warnings, and the server hangs.
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdout=messages,
            stderr=messages,
            start_new_session=True,  # so that its own processes can be ended with it
        )
        try:
            if not _answers(health, process, early_stopping_patience=early_stopping_patience):
                messages.seek(0)
                said = messages.read().decode("utf-8", "replace").strip()
                raise BackendError(
                    needed=f"{name} on loopback within {early_stopping_patience:g} seconds",
                    received=said[-_EXCERPT:] or "a server that says nothing",
                    remedy="start it by hand to see more",
                )
            yield
        finally:
            _end(process)


def _answers(url: str, process: subprocess.Popen[bytes], *, early_stopping_patience: float) -> bool:
    """Wait until the server answers; whether it does."""
    until = time.monotonic() + early_stopping_patience
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx2.TransportError):
            if httpx2.get(url, trust_env=False).status_code == 200:
                return True
        time.sleep(_PAUSE)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_FAREWELL)
    # What has not listened, or was started by what has ended since.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
