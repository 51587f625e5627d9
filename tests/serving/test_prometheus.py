"""Tests for the metrics: requests by route, rejected ones included, events, queues, batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from mllm_msr.serving.prometheus import Metrics, MetricsMiddleware

Serve = Callable[..., TestClient]


def requests(metrics: Metrics | str) -> dict[str, float]:
    """Return the number of requests by the labels of their time series."""
    text = metrics if isinstance(metrics, str) else metrics.text().decode()
    name = "mllm_msr_requests_total"
    series = [line.removeprefix(name) for line in text.splitlines() if line.startswith(name)]
    return {labels: float(n) for labels, _, n in (one.rpartition(" ") for one in series)}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def web(metrics: Metrics) -> TestClient:
    app = FastAPI()

    @app.get("/things/{name:path}")
    async def thing(name: str) -> str:
        if name == "broken":
            raise ValueError(name)
        return name

    app.add_middleware(MetricsMiddleware, metrics=metrics)
    return TestClient(app, raise_server_exceptions=False)


def test_each_request_is_counted_once_under_its_route(web: TestClient, metrics: Metrics) -> None:
    for name in ("a", "b/c", "broken"):
        web.get(f"/things/{name}")
    web.get("/nowhere/1")
    web.get("/nowhere/2")
    assert requests(metrics) == {
        '{route="/things/{name}",status="200"}': 2,
        '{route="/things/{name}",status="500"}': 1,
        '{route="unknown",status="404"}': 2,
    }
    text = metrics.text().decode()
    assert 'mllm_msr_request_seconds_count{route="/things/{name}"} 3.0' in text
    assert "nowhere" not in text


def test_startup_and_shutdown_are_not_counted(web: TestClient, metrics: Metrics) -> None:
    with web:
        pass
    assert requests(metrics) == {}


def test_rejected_requests_are_counted(serve: Serve) -> None:
    web = serve(key="secret")
    key = {"X-API-Key": "secret"}
    body = {"user_id": "newcomer"}
    assert web.post("/v1/recommendations", json=body).status_code == 401
    assert web.post("/v1/events", content=b"{", headers=key).status_code == 422
    large = iter([b"x" * 5_000_000] * 2)
    assert web.post("/v1/events", content=large, headers=key).status_code == 413
    assert web.post("/v1/recommendations", json=body, headers=key).status_code == 200
    text = web.get("/metrics", headers=key).text
    found = requests(text)
    assert found['{route="unknown",status="401"}'] == 1
    assert found['{route="/v1/events",status="422"}'] == 1
    assert found['{route="/v1/events",status="413"}'] == 1
    assert found['{route="/v1/recommendations",status="200"}'] == 1
    assert 'mllm_msr_fallbacks_total{reason="unknown_user"} 1.0' in text


def test_each_event_is_counted_once_by_status(serve: Serve) -> None:
    web = serve()
    event = {"event_id": "1", "user_id": "newcomer", "item_id": "item1"}
    unknown = {**event, "event_id": "2", "item_id": "?"}
    web.post("/v1/events", json={"events": [event, unknown, event]})
    web.post("/v1/events", json={"events": [event]})
    text = web.get("/metrics").text
    for status, n in (("accepted", 1), ("duplicate", 2), ("unknown_item", 1)):
        assert f'mllm_msr_events_total{{status="{status}"}} {n:.1f}' in text


def test_queue_length_is_read_on_demand(metrics: Metrics) -> None:
    waiting = [3]
    metrics.watch_queue("writer", lambda: waiting[0])
    assert "mllm_msr_writer_waiting 3.0" in metrics.text().decode()
    waiting[0] = 0
    assert "mllm_msr_writer_waiting 0.0" in metrics.text().decode()


def test_batches_are_counted_by_model(metrics: Metrics) -> None:
    metrics.batch("scorer")(20)
    metrics.batch("scorer")(600)
    metrics.batch("writer")(1)
    text = metrics.text().decode()
    assert 'mllm_msr_batch_prompts_sum{model="scorer"} 620.0' in text
    assert 'mllm_msr_batch_prompts_bucket{le="32.0",model="scorer"} 1.0' in text
    assert 'mllm_msr_batch_prompts_count{model="writer"} 1.0' in text
