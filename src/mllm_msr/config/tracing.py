"""Traces with OpenTelemetry: spans of stages, steps of a request, and calls of models.

Off by default. They are exported if the standard variable `OTEL_EXPORTER_OTLP_ENDPOINT` is set and
the extra `otel` is installed, or if the program that imports this package configures a provider of
OpenTelemetry itself. Spans contain no texts and no ids of users or items, except for the messages
of errors and the paths of requests.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mllm_msr import __version__

logger = logging.getLogger(__name__)

_NAME: Final = "mllm_msr"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

Attribute = str | int | float | bool


@functools.cache
def _api() -> Any:
    """Return the module `opentelemetry.trace`; None if it is not installed."""
    try:
        from opentelemetry import trace  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return trace


def configure(environment: Mapping[str, str]) -> None:
    """Export the traces of this process if the environment names a collector.

    Args:
        environment: Environment variables; the exporter reads the others of OpenTelemetry itself.
    """
    if not any(environment.get(name) for name in _ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        logger.warning(
            "No traces are exported: %s is set, but the extra otel is not installed.", _ENDPOINTS[0]
        )
        return
    if is_active():
        return
    name = environment.get("OTEL_SERVICE_NAME", "mllm-msr")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _api().set_tracer_provider(provider)


def is_active() -> bool:
    """Return whether somebody receives the spans."""
    trace = _api()
    if trace is None:
        return False
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def instrument(app: Any) -> None:
    """Add a span for each request of a FastAPI application, if traces are active.

    Probes and metrics are left out.
    """
    if not is_active():
        return
    try:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415
    except ImportError:
        logger.warning("Requests have no spans, because the extra otel is not installed.")
        return
    FastAPIInstrumentor.instrument_app(app, excluded_urls="healthz,readyz,metrics")


@contextlib.contextmanager
def step(name: str, **attributes: Attribute) -> Iterator[None]:
    """Run a block as a span, which is the parent of spans inside it.

    Args:
        name: Name of the span.
        attributes: Numbers and names, no data of users.
    """
    trace = _api()
    if trace is None:
        yield
        return
    tracer = trace.get_tracer(_NAME, __version__)
    with tracer.start_as_current_span(name, attributes=_named(attributes)):
        yield


def current() -> Any:
    """Return the current span, which a model call in another thread can have as its caller."""
    trace = _api()
    return None if trace is None else trace.get_current_span()


@contextlib.contextmanager
def model_call(
    method: str, *, callers: Sequence[Any] = (), **attributes: Attribute
) -> Iterator[None]:
    """Run a block as the span of one call of a model.

    Unlike `step`, it can be used in generators, because it is not made the current span.

    Args:
        method: "score" or "generate".
        callers: Results of `current`: the first is the parent and the others are linked, because a
            batch has prompts of several requests. By default, the current span is the parent.
        attributes: As for `step`.
    """
    trace = _api()
    if trace is None:
        yield
        return
    spans = [one for one in callers if one is not None and one.get_span_context().is_valid]
    one = trace.get_tracer(_NAME, __version__).start_span(
        f"model {method}",
        context=trace.set_span_in_context(spans[0]) if spans else None,
        links=[trace.Link(other.get_span_context()) for other in spans[1:]],
        attributes=_named(attributes),
    )
    try:
        yield
    except Exception as error:
        one.record_exception(error)
        one.set_status(trace.StatusCode.ERROR)
        raise
    finally:
        one.end()


def _named(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {f"{_NAME}.{name}": value for name, value in attributes.items()}
