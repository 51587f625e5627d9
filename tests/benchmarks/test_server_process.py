"""Server processes: start, failure, timeout, and shutdown including children."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from benchmarks._server_process import free_address, run_server
from mllm_msr.errors import BackendError

# Answers every GET with status 200; starts a child process and writes its id to a file.
SERVER = """
import http.server, os, pathlib, subprocess, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(os.environ["NOTE"]).write_text(str(child.pid))
host, port = sys.argv[1].split(":")
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
"""


def test_a_server_and_its_child_are_stopped_after_the_block(tmp_path: Path) -> None:
    address, note = free_address(), tmp_path / "pid"
    command = [sys.executable, "-c", SERVER, address]
    health = f"http://{address}/health"
    with run_server(command, {"NOTE": str(note)}, name="a server", health_url=health):
        child = psutil.Process(int(note.read_text()))
        assert child.is_running()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_the_error_contains_the_output_of_a_server_that_exited() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    health = f"http://{free_address()}/health"
    with (
        pytest.raises(
            BackendError, match=r"a server did not start on loopback.*Its output: no such model"
        ),
        run_server(command, {}, name="a server", health_url=health),
    ):
        pytest.fail("the server is not ready")


def test_a_server_that_does_not_become_ready_is_stopped() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    health = f"http://{free_address()}/health"
    with (
        pytest.raises(BackendError, match=r"within 0\.3 seconds.*Its output: none"),
        run_server(command, {}, name="a server", health_url=health, startup_timeout=0.3),
    ):
        pytest.fail("the server is not ready")
