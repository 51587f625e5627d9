"""Tests with a real server process: killed under load, stopped, rejected addresses."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
import uvicorn

from mllm_msr.errors import RunFolderError, RunLockedError, UsageError
from mllm_msr.recommend.run_models import RunModels
from mllm_msr.serving.server import serve


@contextmanager
def served(run: Path, state: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server, wait until it answers, and yield the process and its URL."""
    command = [sys.executable, "-m", "mllm_msr", "serve", "--run", str(run), "--port", "0"]
    process = subprocess.Popen(
        [*command, f"serve.state=sqlite:///{state}", *more], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + process.stderr.read()
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx2.get(f"{found[0]}/healthz", timeout=5).status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(0.05)
        yield process, found[0]
    finally:
        process.kill()
        process.wait()


def test_killed_server_has_lost_no_acknowledged_event(run: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.sqlite"
    acknowledged: list[str] = []

    def load(url: str, worker: int) -> None:
        with httpx2.Client(timeout=30) as client:
            for n in range(10_000):
                event = {
                    "event_id": f"{worker}-{n}", "user_id": f"u{worker}", "item_id": f"item{n % 30}"
                }  # fmt: skip
                try:
                    answer = client.post(f"{url}/v1/events", json={"events": [event]})
                except httpx2.TransportError:
                    return
                if answer.status_code == 202:
                    acknowledged.append(event["event_id"])

    with served(run, state) as (process, url):
        threads = [threading.Thread(target=load, args=(url, worker)) for worker in range(3)]
        for thread in threads:
            thread.start()
        while len(acknowledged) < 60:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
    counts = {worker: sum(e.startswith(f"{worker}-") for e in acknowledged) for worker in range(3)}
    with served(run, state) as (process, url):
        for worker, n_acknowledged in counts.items():
            answer = httpx2.get(f"{url}/v1/users/u{worker}/preference", timeout=30)
            stored = answer.json().get("history", [])
            # One more may be stored whose response was cut off.
            assert len(stored) - n_acknowledged in {0, 1}
            assert stored == [f"item{n % 30}" for n in range(len(stored))]
        second = subprocess.run(
            [sys.executable, "-m", "mllm_msr", "serve", "--run", str(run), "--port", "0",
             f"serve.state=sqlite:///{state}"],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert second.returncode == 1
        linked = tmp_path / "linked.sqlite"
        linked.symlink_to(state)
        with pytest.raises(RunLockedError, match=f"is in use by process {process.pid}"):
            serve(run, host="127.0.0.1", port=0, overrides=[f"serve.state=sqlite:///{linked}"])
        assert f"is in use by process {process.pid}." in second.stderr
        assert "Traceback" not in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM


def test_address_is_checked_before_the_run_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLLM_MSR_API_KEYS", raising=False)
    with pytest.raises(UsageError, match="MLLM_MSR_API_KEYS"):
        serve(tmp_path / "nothing", host="0.0.0.0", port=0)


def test_error_of_the_model_is_one_message_without_a_traceback(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RunFolderError("The weights are damaged. Restore them.")

    monkeypatch.setattr(RunModels, "open_ranker", fail)
    overrides = [f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}"]
    for _ in range(2):  # the second one can lock the database again
        with pytest.raises(RunFolderError, match="The weights are damaged"):
            serve(run, host="127.0.0.1", port=0, overrides=overrides)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("url", ["sqlite://", "not-a-url", "postgresql://u:hunter2@host:x/db"])
def test_unusable_database_url_is_one_message(run: Path, url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mllm_msr", "-v", "serve", "--run", str(run), "--port", "0"],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "MLLM_MSR__SERVE__STATE": url},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("mllm-msr: serve.state='")
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_port_in_use_is_reported(run: Path, tmp_path: Path) -> None:
    with ExitStack() as held:
        taken = held.enter_context(socket.socket())
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        state = f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}"
        with pytest.raises(UsageError, match=rf"Cannot listen on 127\.0\.0\.1:{port}.*--port"):
            serve(run, host="127.0.0.1", port=port, overrides=[state])


def test_responses_are_sent_without_delay(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def inspect(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        with socket.create_connection(sockets[0].getsockname()):
            accepted, _ = sockets[0].accept()
            with accepted:
                seen.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(uvicorn.Server, "run", inspect)
    monkeypatch.setattr(uvicorn.Config, "bind_socket", listening)
    state = f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}"
    serve(run, host="127.0.0.1", port=0, overrides=[state])
    assert seen == [1]


def listening(config: uvicorn.Config) -> socket.socket:
    bound = socket.socket()
    bound.bind((config.host, config.port))
    bound.listen()
    return bound


def test_shutdown_timeout_is_passed_to_the_server(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int | None] = []

    def inspect(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        waits.append(self.config.timeout_graceful_shutdown)

    monkeypatch.setattr(uvicorn.Server, "run", inspect)
    state = f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}"
    serve(run, host="127.0.0.1", port=0, overrides=[state, "serve.shutdown_timeout=6.5"])
    assert waits == [7]
