"""The service under load: times of requests and throughput with a run's own model.

A server in a process of its own, clients of an asyncio loop on loopback. The load is bounded:
each client sends its next request when it has the last answer.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np
import numpy.typing as npt
import polars as pl

_ATTEMPTS: Final = 600
_ROUTES: Final = "/v1/(?:recommendations|scores|events)"

Ask = Callable[[httpx2.AsyncClient, int], Awaitable[httpx2.Response]]


def run(
    *,
    folder: str = "runs/demo",
    clients: int = 4,
    requests: int = 180,
    budget: int = 20,
    copies: int = 0,
) -> dict[str, Any]:
    """Measure a served run.

    Args:
        folder: A finished run folder; its own service folder is left alone.
        clients: Clients at a time.
        requests: Requests of each kind, all clients together.
        budget: Candidates that the model ranks for each list.
        copies: Copies of the ranking model; as many as the service thinks right where 0.

    Returns:
        For each kind of request its p50, p95 and p99 in milliseconds as the clients see them, the
        requests a second, the service's own mean time, without the way to the client and back,
        and the processor time that it took for each request (where the system tells it), which
        depends least on what else the machine does:
        lists for users who have had none yet ("cold") and again ("warm"), one score that is
        known, events; how many candidates the model had to rank for each request; and the
        machine's load before, above whose cores times say little.
        As many lists for other users come before and are told apart ("lists_first"): a process
        prepares its matrix products for every new shape.
    """
    load = os.getloadavg()[0]
    interactions = pl.read_parquet(Path(folder) / "interactions.parquet")
    users = interactions["user_id"].unique().sort().to_list()
    items = interactions["item_id"].unique().sort().to_list()

    def list_of(first: int) -> Ask:
        async def ask(client: httpx2.AsyncClient, n: int) -> httpx2.Response:
            body = {"user_id": users[(first + n) % len(users)], "k": 10, "budget": budget}
            return await client.post("/v1/recommendations", json=body)

        return ask

    async def score_of(client: httpx2.AsyncClient, n: int) -> httpx2.Response:
        del n
        body = {"user_id": users[0], "item_ids": [items[0]]}
        return await client.post("/v1/scores", json=body)

    async def event_of(client: httpx2.AsyncClient, n: int) -> httpx2.Response:
        event = {"event_id": str(n), "user_id": f"visitor{n % 9}", "item_id": items[n % len(items)]}
        return await client.post("/v1/events", json={"events": [event]})

    result: dict[str, Any] = {"cores": os.cpu_count(), "load_before": round(load, 2)}
    result |= {"clients": clients, "budget": budget, "copies": copies or None}
    # Users of one preference share what was scored for it: the first service keeps no score.
    services: dict[int, dict[str, tuple[Ask, int]]] = {
        0: {"lists_first": (list_of(0), clients), "lists_cold": (list_of(requests), clients)},
        200_000: {
            "": (list_of(requests), clients),
            "lists_warm": (list_of(requests), clients),
            "score_known": (score_of, 1),
            "events": (event_of, clients),
        },
    }
    for kept_scores, kinds in services.items():
        with (
            tempfile.TemporaryDirectory() as state,
            _served(Path(folder), Path(state), kept_scores=kept_scores, copies=copies) as (
                url,
                process_id,
            ),
        ):
            _settle(url, users[: 2 * requests], items)
            for name, (ask, n_clients) in kinds.items():
                before, busy = _so_far(url), _processor_seconds(process_id)
                found = asyncio.run(_measure(url, ask, clients=n_clients, requests=requests))
                seconds, n, calls = _so_far(url) - before
                busy = _processor_seconds(process_id) - busy
                found["server_mean_ms"] = round(1000 * seconds / n, 1)
                found["processor_ms"] = round(1000 * busy / n, 1)
                result[name] = {**found, "model_calls_per_request": round(calls / n, 1)}
    return {name: value for name, value in result.items() if name}


@contextmanager
def _served(
    folder: Path, state: Path, *, kept_scores: int, copies: int
) -> Iterator[tuple[str, int]]:
    command = [
        sys.executable, "-m", "mllm_msr", "serve", "--run", str(folder), "--port", "0",
        f"serve.state=sqlite:///{state / 'state.sqlite'}", "serve.model_timeout=60",
        f"serve.score_cache_size={kept_scores}", f"serve.copies={copies or 'null'}",
    ]  # fmt: skip
    # Into a file: a pipe that nobody reads is full after 64 kB of warnings, and the service hangs.
    messages = state / "messages.txt"
    with messages.open("w") as stderr, subprocess.Popen(command, stderr=stderr) as process:
        try:
            url = _announced(messages)
            _await_model(url)
            yield url, process.pid
        finally:
            process.terminate()


def _announced(messages: Path) -> str:
    """The URL that the service says it listens on."""
    for _ in range(_ATTEMPTS):
        if found := re.search(r"http://\S+(?=\n)", messages.read_text(encoding="utf-8")):
            return found[0]
        time.sleep(0.2)
    raise RuntimeError(f"the service did not start: {messages.read_text(encoding='utf-8')}")


def _await_model(url: str) -> None:
    """Wait until the model that ranks has answered its warm-up prompt."""
    for _ in range(_ATTEMPTS):
        try:
            if httpx2.get(f"{url}/readyz").json()["status"] == "ready":
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError("the service did not become ready")


def _processor_seconds(process_id: int) -> float:
    """What a process has computed so far, all its threads together; NaN where nothing tells it."""
    told = Path(f"/proc/{process_id}/stat")
    if not told.is_file():
        return float("nan")
    fields = told.read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _settle(url: str, users: Sequence[str], items: Sequence[str]) -> None:
    """Load the model that writes, and let preferences catch up that lag behind their histories.

    A list begins such an update; what is measured are lists, and updates by the events.
    """
    with httpx2.Client(base_url=url, timeout=120) as client:
        history = {"history": list(items[:1]), "k": 1, "budget": 1}
        client.post("/v1/recommendations", json=history).raise_for_status()
        for user_id in users:
            body = {"user_id": user_id, "k": 1, "budget": 0}
            client.post("/v1/recommendations", json=body).raise_for_status()
        for user_id in users:
            while client.get(f"/v1/users/{user_id}/preference").json()["updating"]:
                time.sleep(0.1)


def _so_far(url: str) -> npt.NDArray[np.float64]:
    """What the service has done: seconds and requests of the routes measured, candidates scored."""
    text = httpx2.get(f"{url}/metrics").text
    patterns = (
        rf'request_seconds_sum{{route="{_ROUTES}"}} (\S+)',
        rf'request_seconds_count{{route="{_ROUTES}"}} (\S+)',
        r'batch_prompts_sum{model="scorer"} (\S+)',
    )
    return np.array([sum(map(float, re.findall(pattern, text))) for pattern in patterns])


async def _measure(url: str, ask: Ask, *, clients: int, requests: int) -> dict[str, Any]:
    numbers = iter(range(requests))
    seconds: list[float] = []
    fallbacks = 0

    async def work(client: httpx2.AsyncClient) -> None:
        nonlocal fallbacks
        for number in numbers:
            started = time.perf_counter()
            answer = await ask(client, number)
            seconds.append(time.perf_counter() - started)
            answer.raise_for_status()
            fallbacks += answer.json().get("fallback_reason") is not None

    started = time.perf_counter()
    async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))
    elapsed = time.perf_counter() - started
    p50, p95, p99 = (round(float(q) * 1000, 1) for q in np.percentile(seconds, [50, 95, 99]))
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "mean_ms": round(statistics.fmean(seconds) * 1000, 1),
        "per_second": round(len(seconds) / elapsed, 1),
        "fallbacks": fallbacks,
    }
