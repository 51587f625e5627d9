"""Prometheus metrics: requests, latencies, batches, events, fallbacks, updates and queues."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECOND_BUCKETS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
_PROMPT_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Metrics of one service, in a separate registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests.", "route", "status")
        self._seconds = self._histogram(
            "request_seconds", "Duration of requests.", "route", _SECOND_BUCKETS
        )
        self._batches = self._histogram(
            "batch_prompts", "Prompts per batch.", "model", _PROMPT_BUCKETS
        )
        self._events = self._counter("events", "Events by status.", "status")
        self._fallbacks = self._counter(
            "fallbacks", "Responses without model scores, by reason.", "reason"
        )
        self._updates = self._counter(
            "preference_updates", "Preference updates by outcome.", "outcome"
        )
        self._failed_updates = self._counter(
            "failed_preference_updates",
            "Failed attempts of preference updates, by reason.",
            "reason",
        )

        self._exposures = self._counter(
            "experiment_exposures", "Lists of an A/B test.", "experiment", "variant"
        )
        self._outcomes = self._counter(
            "experiment_outcomes",
            "Interactions with items that an A/B test has shown before.",
            "experiment",
            "variant",
        )

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"mllm_msr_{name}", description, labels, registry=self._registry)

    def _histogram(
        self, name: str, description: str, label: str, buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(
            f"mllm_msr_{name}", description, [label], buckets=buckets, registry=self._registry
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            route: Pattern of the route, so that ids do not create time series.
            status: HTTP status of the response.
            seconds: Duration.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, model: str) -> Callable[[int], None]:
        """Return a function that records the batch sizes of a model."""
        return self._batches.labels(model).observe

    def event(self, status: str) -> None:
        """Count an event."""
        self._events.labels(status).inc()

    def fallback(self, reason: str) -> None:
        """Count a response without model scores."""
        self._fallbacks.labels(reason).inc()

    def update(self, outcome: str) -> None:
        """Count a preference update."""
        self._updates.labels(outcome).inc()

    def failed_update(self, reason: str) -> None:
        """Count a failed attempt of a preference update."""
        self._failed_updates.labels(reason).inc()

    def exposure(self, experiment: str, variant: str) -> None:
        """Count a list of an A/B test."""
        self._exposures.labels(experiment, variant).inc()

    def outcome(self, experiment: str, variant: str) -> None:
        """Count an interaction with an item that an A/B test has shown."""
        self._outcomes.labels(experiment, variant).inc()

    def watch_queue(self, model: str, waiting: Callable[[], int]) -> None:
        """Add a gauge of the number of prompts that wait for a model."""
        gauge = Gauge(f"mllm_msr_{model}_waiting", "Waiting prompts.", registry=self._registry)
        gauge.set_function(waiting)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


class MetricsMiddleware:
    """ASGI middleware that counts and times requests.

    Args:
        app: The wrapped application.
        metrics: Receives the counts.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; one that raises an exception counts as status 500."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, record_status)
        finally:
            route = getattr(scope.get("route"), "path_format", "unknown")
            self._metrics.request(route, status, time.perf_counter() - started)
