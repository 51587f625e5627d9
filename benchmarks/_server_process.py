"""Run a server process on loopback: start it, wait until it is ready, stop it and its children."""

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
    """Return a loopback address with an unused port, such as "127.0.0.1:38211"."""
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
    """Run a server for the duration of a `with` block.

    Args:
        command: Program and arguments.
        variables: Additional environment variables.
        name: Name of the server in error messages.
        health_url: URL that returns status 200 when the server is ready.
        startup_timeout: Maximum number of seconds until the server is ready.

    Raises:
        BackendError: The server does not start; the message contains the end of its output.
    """
    # Output goes to a file, because the server would block when a pipe buffer (64 kB) is full.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdout=output,
            stderr=output,
            start_new_session=True,  # own process group, to stop its children with it
        )
        try:
            if not _is_ready(health_url, process, startup_timeout=startup_timeout):
                output.seek(0)
                text = output.read().decode("utf-8", "replace").strip()
                raise BackendError(
                    f"{name} did not start on loopback within {startup_timeout:g} seconds. "
                    "Fix the error in its output, or start it manually for details. Its output: "
                    f"{text[-_EXCERPT_CHARACTERS:] or 'none'}"
                )
            yield
        finally:
            _stop(process)


def _is_ready(url: str, process: subprocess.Popen[bytes], *, startup_timeout: float) -> bool:
    """Wait until the server is ready; return False if it exits or the timeout expires."""
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
    # For children that ignore SIGTERM or outlive their parent.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
