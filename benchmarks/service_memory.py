"""Memory of the service under a mixed load, minute by minute.

All kinds of requests are sent, including deletions, new items and invalid requests. The numbers of
users and items are limited, so that memory grows only if the service does not free what it used.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import random
import time
from pathlib import Path
from typing import Any, Final

import httpx2
import polars as pl
from PIL import Image

from benchmarks._service import run_service

_N_VISITORS: Final = 300
_N_NEW_ITEMS: Final = 50
_N_CLIENTS: Final = 4


def run(*, folder: str = "runs/demo", minutes: int = 30) -> dict[str, Any]:
    """Measure the resident memory of a service during a mixed load.

    Args:
        folder: A finished run folder; the state of its service is not changed.
        minutes: Duration of the load.

    Returns:
        The number of requests by status, resident memory in megabytes (10^6 bytes) before the
        load and at the end of each minute, and its mean growth per minute over the second half.
    """
    interactions = pl.read_parquet(Path(folder) / "interactions.parquet")
    load = _Load(
        users=interactions["user_id"].unique().sort().to_list(),
        items=interactions["item_id"].unique().sort().to_list(),
    )
    started = os.getloadavg()[0]
    with run_service(Path(folder)) as (url, process_id):
        resident = [_resident_megabytes(process_id)]
        for _ in range(minutes):
            asyncio.run(load.send_for(url, seconds=60))
            resident.append(_resident_megabytes(process_id))
    half = resident[len(resident) // 2 :]
    return {
        "cores": os.cpu_count(),
        "load_before": round(started, 2),
        "requests": sum(load.statuses.values()),
        "statuses": dict(sorted(load.statuses.items())),
        "resident_mb": resident,
        "growth_per_minute_mb": round((half[-1] - half[0]) / max(len(half) - 1, 1), 2),
    }


class _Load:
    """Closed loop of clients that send random requests.

    Args:
        users: Users of the run.
        items: Items of the run.

    Attributes:
        statuses: Number of responses by status.
    """

    def __init__(self, users: list[str], items: list[str]) -> None:
        visitors = [f"visitor{n}" for n in range(_N_VISITORS)]
        self._users = users[:_N_VISITORS] + visitors
        self._items = items
        self._random = random.Random(0)
        self._n_events = 0
        buffer = io.BytesIO()
        Image.new("RGB", (200, 200), "red").save(buffer, format="JPEG")
        self._image = base64.b64encode(buffer.getvalue()).decode()
        self.statuses: dict[int, int] = {}

    async def send_for(self, url: str, *, seconds: float) -> None:
        """Send requests for some seconds."""
        deadline = time.monotonic() + seconds

        async def work(client: httpx2.AsyncClient) -> None:
            while time.monotonic() < deadline:
                response = await self._send(client)
                status = response.status_code
                self.statuses[status] = self.statuses.get(status, 0) + 1

        async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
            await asyncio.gather(*(work(client) for _ in range(_N_CLIENTS)))

    async def _send(self, client: httpx2.AsyncClient) -> httpx2.Response:
        kinds = {
            self._list: 30, self._history: 5, self._scores: 15, self._events: 30, self._invalid: 5,
            self._new_item: 1, self._delete: 1, self._read: 13,
        }  # fmt: skip
        (kind,) = self._random.choices(list(kinds), list(kinds.values()))
        method, path, body = kind()
        return await client.request(method, path, json=body)

    def _some_items(self, n: int) -> list[str]:
        return self._random.sample(self._items, min(n, len(self._items)))

    def _user(self) -> str:
        return self._random.choice(self._users)

    def _list(self) -> tuple[str, str, Any]:
        budget = self._random.choice([0, 20, 50])
        return "POST", "/v1/recommendations", {"user_id": self._user(), "budget": budget}

    def _history(self) -> tuple[str, str, Any]:
        return "POST", "/v1/recommendations", {"history": self._some_items(4), "budget": 10}

    def _scores(self) -> tuple[str, str, Any]:
        body = {"user_id": self._user(), "item_ids": self._some_items(20)}
        return "POST", "/v1/scores", body

    def _events(self) -> tuple[str, str, Any]:
        events = []
        for item_id in self._some_items(3):
            self._n_events += 1
            events.append(
                {"event_id": str(self._n_events), "user_id": self._user(), "item_id": item_id}
            )
        return "POST", "/v1/events", {"events": events}

    def _invalid(self) -> tuple[str, str, Any]:
        body = {f"key{n}": "x" * 50 for n in range(self._random.randrange(2000))}
        return "POST", self._random.choice(["/v1/events", "/v1/items", "/v1/scores"]), body

    def _new_item(self) -> tuple[str, str, Any]:
        number = self._random.randrange(_N_NEW_ITEMS)
        item = {"item_id": f"new{number}", "title": f"New item {number}", "image": self._image}
        return "POST", "/v1/items", item

    def _delete(self) -> tuple[str, str, Any]:
        return "DELETE", f"/v1/users/visitor{self._random.randrange(_N_VISITORS)}", None

    def _read(self) -> tuple[str, str, Any]:
        item_ids = "&".join(f"item_id={item_id}" for item_id in self._some_items(10))
        paths = [
            f"/v1/users/{self._user()}/preference", f"/v1/users?contains={self._n_events % 10}",
            f"/v1/items?{item_ids}", f"/v1/items/{self._some_items(1)[0]}/image", "/metrics",
            "/readyz", "/",
        ]  # fmt: skip
        return "GET", self._random.choice(paths), None


def _resident_megabytes(process_id: int) -> float:
    """Return the resident memory of a process in megabytes; NaN if it is unknown."""
    status = Path(f"/proc/{process_id}/statm")
    if not status.is_file():
        return float("nan")
    pages = int(status.read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
