"""Run the service of a run folder in a separate process on loopback."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2

_ATTEMPTS: Final = 600
_POLL_SECONDS: Final = 0.2


@contextmanager
def run_service(folder: Path, *settings: str) -> Iterator[tuple[str, int]]:
    """Run a service with a new database; yield its URL and process id when its model is ready.

    Args:
        folder: A finished run folder; the state of its service is not changed.
        settings: Further settings as `key=value`.
    """
    # Output goes to a file, because the server would block when a pipe buffer (64 kB) is full.
    with (
        tempfile.TemporaryDirectory() as state,
        Path(state, "output.txt").open("w+", encoding="utf-8") as output,
    ):
        command = [
            sys.executable, "-m", "mllm_msr", "serve", "--run", str(folder), "--port", "0",
            f"serve.state=sqlite:///{state}/state.sqlite", "serve.model_timeout=60",
            *settings,
        ]  # fmt: skip
        with subprocess.Popen(command, stderr=output) as process:
            try:
                url = _read_url(Path(output.name))
                _wait_until_ready(url)
                yield url, process.pid
            finally:
                process.terminate()


def _read_url(output: Path) -> str:
    """Wait until the service prints its URL, and return it."""
    for _ in range(_ATTEMPTS):
        if found := re.search(r"http://\S+(?=\n)", output.read_text(encoding="utf-8")):
            return found[0]
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"The service did not start. Output: {output.read_text(encoding='utf-8')}")


def _wait_until_ready(url: str) -> None:
    """Wait until the ranking model has answered its warm-up prompt."""
    for _ in range(_ATTEMPTS):
        try:
            if httpx2.get(f"{url}/readyz").json()["status"] == "ready":
                return
        except httpx2.TransportError:
            pass
        time.sleep(_POLL_SECONDS)
    raise RuntimeError("The service did not become ready.")
