"""Servers that start, that do not, and that leave nothing behind."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
from benchmarks._loopback import free_address, running

from mllm_msr.errors import BackendError

# Answers every GET with 200; starts a process of its own and writes down its number.
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


def test_a_server_answers_in_the_block_and_is_gone_after_it(tmp_path: Path) -> None:
    address, note = free_address(), tmp_path / "pid"
    command = [sys.executable, "-c", SERVER, address]
    health = f"http://{address}/health"
    with running(command, {"NOTE": str(note)}, name="a server", health=health):
        child = psutil.Process(int(note.read_text()))
        assert child.is_running()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_what_a_server_said_before_it_ended_is_in_the_error() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    health = f"http://{free_address()}/health"
    with (
        pytest.raises(BackendError, match=r"needed a server on loopback.*received no such model"),
        running(command, {}, name="a server", health=health),
    ):
        pytest.fail("it was said to run")


def test_a_server_that_never_answers_is_given_up_and_ended() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    health = f"http://{free_address()}/health"
    with (
        pytest.raises(BackendError, match=r"within 0\.3 seconds.*a server that says nothing"),
        running(command, {}, name="a server", health=health, patience=0.3),
    ):
        pytest.fail("it was said to run")
