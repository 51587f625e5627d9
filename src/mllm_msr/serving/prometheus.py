"""What `/metrics` shows to Prometheus: requests, times, batches, fallbacks, the queue."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
_PROMPTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "mllm_msr_requests", "Requests.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "mllm_msr_request_seconds",
            "Time of requests.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "mllm_msr_batch_prompts",
            "Prompts in a batch.",
            ["model"],
            buckets=_PROMPTS,
            registry=self._registry,
        )
        self._events = Counter(
            "mllm_msr_events", "Events by what became of them.", ["status"], registry=self._registry
        )
        self._fallbacks = Counter(
            "mllm_msr_fallbacks",
            "Answers without the model, by the reason.",
            ["reason"],
            registry=self._registry,
        )
        self._updates = Counter(
            "mllm_msr_preference_updates",
            "Preference updates by their outcome.",
            ["outcome"],
            registry=self._registry,
        )
        self._failed_updates = Counter(
            "mllm_msr_failed_preference_updates",
            "Tries of preference updates that failed, by the reason.",
            ["reason"],
            registry=self._registry,
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is the pattern, so that ids make no new series."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, model: str) -> Callable[[int], None]:
        """A function that is told the size of each batch of a model."""
        return self._batches.labels(model).observe

    def event(self, status: str) -> None:
        """Count an event."""
        self._events.labels(status).inc()

    def fallback(self, reason: str) -> None:
        """Count an answer without the model."""
        self._fallbacks.labels(reason).inc()

    def update(self, outcome: str) -> None:
        """Count a preference update."""
        self._updates.labels(outcome).inc()

    def failed_update(self, reason: str) -> None:
        """Count a try of a preference update that failed."""
        self._failed_updates.labels(reason).inc()

    def watch_queue(self, model: str, waiting: Callable[[], int]) -> None:
        """Show how many prompts wait for a model."""
        gauge = Gauge(f"mllm_msr_{model}_waiting", "Prompts that wait.", registry=self._registry)
        gauge.set_function(waiting)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)


class Measured:
    """Counts and times the requests that pass through it.

    Args:
        app: What answers them.
        metrics: Told of each.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; one that ends in an exception counts as 500."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path_format", "unknown")
            self._metrics.request(route, status, time.perf_counter() - started)
