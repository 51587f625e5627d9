"""Server processes on loopback: start one, wait until it is ready, stop it with its children."""

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

_POLL_SECONDS: Final = 0.1
_SHUTDOWN_SECONDS: Final = 20.0
_EXCERPT_CHARACTERS: Final = 500


def free_address() -> str:
    """Return an unused address of this machine ("127.0.0.1:38211")."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def run_server(
    command: Sequence[str | Path],
    variables: Mapping[str, str],
    *,
    name: str,
    health_url: str,
    startup_timeout: float = 120.0,
) -> Iterator[None]:
    """Run a server for the duration of a block.

    Args:
        command: Program and arguments.
        variables: Additional environment variables.
        name: Name of the server in error messages.
        health_url: URL that answers with status 200 if the server is ready.
        startup_timeout: Most seconds until it is ready.

    Raises:
        BackendError: The server does not start; the message contains the end of its output.
    """
    # A pipe that is not read is full after 64 kB of warnings, and the server would hang.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdout=output,
            stderr=output,
            start_new_session=True,  # a process group, so that its children are stopped with it
        )
        try:
            if not _is_ready(health_url, process, startup_timeout=startup_timeout):
                output.seek(0)
                text = output.read().decode("utf-8", "replace").strip()
                raise BackendError(
                    f"{name} did not start on loopback within {startup_timeout:g} seconds. "
                    f"Start it by hand for more details. Its output: "
                    f"{text[-_EXCERPT_CHARACTERS:] or 'none'}"
                )
            yield
        finally:
            _stop(process)


def _is_ready(url: str, process: subprocess.Popen[bytes], *, startup_timeout: float) -> bool:
    """Wait until the server answers; return False if it ends or the time is over."""
    deadline = time.monotonic() + startup_timeout
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx2.TransportError):
            if httpx2.get(url, trust_env=False).status_code == 200:
                return True
        time.sleep(_POLL_SECONDS)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_SHUTDOWN_SECONDS)
    # Children that ignore SIGTERM, or whose parent has ended already.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
