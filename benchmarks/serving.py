"""Load test of the service with the model of a run: latency and throughput.

The server runs in a separate process, the clients in an asyncio loop on loopback. The load is
closed-loop: each client sends its next request when it has received the previous response.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks._service import run_service

_ROUTES: Final = "/v1/(?:recommendations|scores|events)"

# Sends the n-th request of a kind.
SendRequest = Callable[[httpx2.AsyncClient, int], Awaitable[httpx2.Response]]


def run(
    *,
    folder: str = "runs/demo",
    clients: int = 4,
    requests: int = 180,
    budget: int = 20,
    copies: int = 0,
) -> dict[str, Any]:
    """Measure the service of a run.

    Args:
        folder: A finished run folder; the state of its service is not changed.
        clients: Number of concurrent clients.
        requests: Number of requests of each kind, over all clients.
        budget: Number of candidates that the model ranks for each list.
        copies: Number of copies of the ranking model; 0 for the default of the service.

    Returns:
        For each kind of request: p50, p95 and p99 latency in milliseconds as seen by the clients,
        requests per second, the mean time inside the service, the processor time per request
        (Linux only), which depends least on other load, and the number of candidates that the
        model ranks per request. The kinds are lists that are not cached ("lists_cold") and that
        are ("lists_warm"), one cached score, and events. "lists_first" are lists for other users
        right after the start, when the process still prepares matrix products for new shapes.
        Also the load average before the run; if it exceeds the number of cores, times are
        unreliable.
    """
    load = os.getloadavg()[0]
    interactions = pl.read_parquet(Path(folder) / "interactions.parquet")
    users = interactions["user_id"].unique().sort().to_list()
    items = interactions["item_id"].unique().sort().to_list()
    lists = _lists(users[requests:] + users[:requests], budget)
    # The first service has no score cache, which users with equal preferences would share.
    services: dict[int, dict[str, tuple[SendRequest, int]]] = {
        0: {"lists_first": (_lists(users, budget), clients), "lists_cold": (lists, clients)},
        200_000: {
            "": (lists, clients),  # fills the cache
            "lists_warm": (lists, clients),
            "score_known": (_scores(users[0], items[0]), 1),
            "events": (_events(items), clients),
        },
    }
    result: dict[str, Any] = {"cores": os.cpu_count(), "load_before": round(load, 2)}
    result |= {"clients": clients, "budget": budget, "copies": copies or None}
    for cache_size, kinds in services.items():
        with run_service(
            Path(folder), f"serve.score_cache_size={cache_size}", f"serve.copies={copies or 'null'}"
        ) as (url, pid):
            _prepare_service(url, users[: 2 * requests], items)
            for name, (send, n_clients) in kinds.items():
                result[name] = _measure(url, pid, send, clients=n_clients, requests=requests)
    return {name: value for name, value in result.items() if name}


def _lists(users: Sequence[str], budget: int) -> SendRequest:
    """Return a function that requests lists, for one user after another."""

    async def send(client: httpx2.AsyncClient, n: int) -> httpx2.Response:
        body = {"user_id": users[n % len(users)], "k": 10, "budget": budget}
        return await client.post("/v1/recommendations", json=body)

    return send


def _scores(user_id: str, item_id: str) -> SendRequest:
    """Return a function that always requests the same score."""

    async def send(client: httpx2.AsyncClient, n: int) -> httpx2.Response:
        del n
        body = {"user_id": user_id, "item_ids": [item_id]}
        return await client.post("/v1/scores", json=body)

    return send


def _events(items: Sequence[str]) -> SendRequest:
    """Return a function that sends one event per request, for nine users in turn."""

    async def send(client: httpx2.AsyncClient, n: int) -> httpx2.Response:
        event = {"event_id": str(n), "user_id": f"visitor{n % 9}", "item_id": items[n % len(items)]}
        return await client.post("/v1/events", json={"events": [event]})

    return send


def _processor_seconds(process_id: int) -> float:
    """Return the processor seconds of a process over all threads; NaN if they are unknown."""
    status = Path(f"/proc/{process_id}/stat")
    if not status.is_file():
        return float("nan")
    fields = status.read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _prepare_service(url: str, users: Sequence[str], items: Sequence[str]) -> None:
    """Load the preference model and wait until all preferences are up to date.

    Requests of lists trigger updates of preferences, whose time should not be measured.
    """
    with httpx2.Client(base_url=url, timeout=120) as client:
        body: dict[str, object] = {"history": list(items[:1]), "k": 1, "budget": 1}
        client.post("/v1/recommendations", json=body).raise_for_status()
        for user_id in users:
            body = {"user_id": user_id, "k": 1, "budget": 0}
            client.post("/v1/recommendations", json=body).raise_for_status()
        for user_id in users:
            while client.get(f"/v1/users/{user_id}/preference").json()["updating"]:
                time.sleep(0.1)


def _read_counters(url: str) -> npt.NDArray[np.float64]:
    """Return the seconds and number of requests on the measured routes, and of model calls."""
    text = httpx2.get(f"{url}/metrics").text
    patterns = (
        rf'request_seconds_sum{{route="{_ROUTES}"}} (\S+)',
        rf'request_seconds_count{{route="{_ROUTES}"}} (\S+)',
        r'batch_prompts_sum{model="scorer"} (\S+)',
    )
    return np.array([sum(map(float, re.findall(pattern, text))) for pattern in patterns])


def _measure(
    url: str, process_id: int, send: SendRequest, *, clients: int, requests: int
) -> dict[str, Any]:
    """Measure one kind of request on the side of the clients and of the service."""
    counters, busy = _read_counters(url), _processor_seconds(process_id)
    result = asyncio.run(_send_all(url, send, clients=clients, requests=requests))
    seconds, n, calls = _read_counters(url) - counters
    busy = _processor_seconds(process_id) - busy
    return {
        **result,
        "server_mean_ms": round(1000 * seconds / n, 1),
        "processor_ms": round(1000 * busy / n, 1),
        "model_calls_per_request": round(calls / n, 1),
    }


async def _send_all(url: str, send: SendRequest, *, clients: int, requests: int) -> dict[str, Any]:
    numbers = iter(range(requests))
    seconds: list[float] = []
    fallbacks = 0

    async def work(client: httpx2.AsyncClient) -> None:
        nonlocal fallbacks
        for number in numbers:
            start = time.perf_counter()
            response = await send(client, number)
            seconds.append(time.perf_counter() - start)
            response.raise_for_status()
            fallbacks += response.json().get("fallback_reason") is not None

    start = time.perf_counter()
    async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))
    elapsed = time.perf_counter() - start
    p50, p95, p99 = (round(float(q) * 1000, 1) for q in np.percentile(seconds, [50, 95, 99]))
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "mean_ms": round(statistics.fmean(seconds) * 1000, 1),
        "per_second": round(len(seconds) / elapsed, 1),
        "fallbacks": fallbacks,
    }
