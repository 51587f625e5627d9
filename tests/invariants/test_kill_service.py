"""A service that is killed under load again and again loses, doubles and reorders no event."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest

import online_worlds
from mllm_msr.serving.state import ServiceState

N_CLIENTS = 4
N_ITEMS = 30


class Client(threading.Thread):
    """Sends the numbered events of one user until the service is killed.

    Attributes:
        acknowledged: Number of events that were acknowledged so far, over all rounds.
        unexpected: Responses that are neither an acknowledgment nor an error.
    """

    def __init__(self, user: str) -> None:
        super().__init__()
        self.user = user
        self.acknowledged = 0
        self.unexpected: list[str] = []
        self.url = ""

    def run(self) -> None:
        with httpx2.Client(base_url=self.url, timeout=30) as client:
            while True:
                # After a kill, the event whose acknowledgment was lost is sent again.
                numbers = range(self.acknowledged, self.acknowledged + 3)
                events = [
                    {"event_id": f"{self.user}-{n}", "user_id": self.user, "item_id": item(n)}
                    for n in numbers
                ]
                try:
                    answer = client.post("/v1/events", json={"events": events})
                except httpx2.TransportError:
                    return
                statuses = [one["status"] for one in answer.json()["events"]]
                if answer.status_code != 202 or not set(statuses) <= {"accepted", "duplicate"}:
                    self.unexpected.append(answer.text)
                    return
                self.acknowledged += len(events)


def item(number: int) -> str:
    return f"item{number % N_ITEMS}"


def start(run: Path, state: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a service, and return the process and its URL when it answers."""
    command = [sys.executable, "-m", "mllm_msr", "serve", "--run", str(run), "--port", "0"]
    process = subprocess.Popen(
        [*command, f"serve.state=sqlite:///{state}", "serve.update=event"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
    assert found
    threading.Thread(target=process.stderr.read, daemon=True).start()
    for _ in range(600):
        try:
            if httpx2.get(f"{found[0]}/healthz", timeout=5).status_code == 200:
                return process, found[0]
        except httpx2.TransportError:
            time.sleep(0.05)
    raise AssertionError("the service does not answer")


def kill_repeatedly(run: Path, folder: Path, *, n_kills: int) -> int:
    """Kill a loaded service several times; return the number of acknowledged events.

    Args:
        run: A finished run.
        folder: Folder for the database.
        n_kills: Number of kills.
    """
    state = folder / "state.sqlite"
    rng = random.Random(5)
    clients = [Client(f"user-{n}") for n in range(N_CLIENTS)]
    for _ in range(n_kills):
        process, url = start(run, state)
        try:
            again = [Client(client.user) for client in clients]
            for client, before in zip(again, clients, strict=True):
                client.acknowledged, client.url = before.acknowledged, url
                client.start()
            clients = again
            time.sleep(rng.uniform(0.2, 1.5))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for client in clients:
            client.join()
    assert [client.unexpected for client in clients] == [[]] * N_CLIENTS
    database = ServiceState(state)
    for client in clients:
        stored = database.user(client.user).history
        # At most one further request is stored, completely: its acknowledgment was lost.
        assert len(stored) - client.acknowledged in {0, 3}
        assert list(stored) == [item(n) for n in range(len(stored))]
    database.close()
    return sum(client.acknowledged for client in clients)


@pytest.mark.slow
def test_killed_service_has_every_acknowledged_event_once_and_in_order(tmp_path: Path) -> None:
    run = online_worlds.make_run(tmp_path / "served")
    assert kill_repeatedly(run, tmp_path, n_kills=4) > 50
