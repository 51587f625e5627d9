"""Tests for spans, with OpenTelemetry's SDK: parents, links, errors, export over HTTP."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mllm_msr.config import tracing
from traces import find, parents, received, unset_provider


def test_nothing_happens_without_a_provider() -> None:
    with unset_provider():
        assert not tracing.is_active()
        with tracing.step("stage"), tracing.model_call("score"):
            assert not tracing.current().get_span_context().is_valid


def test_nothing_happens_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    tracing._api.cache_clear()
    try:
        assert (tracing.is_active(), tracing.current()) == (False, None)
        with tracing.step("stage"), tracing.model_call("score", callers=[None]):
            pass
    finally:
        tracing._api.cache_clear()


def test_blocks_are_nested_and_attributes_named() -> None:
    with received() as spans:
        assert tracing.is_active()
        call = tracing.model_call("generate", prompts=7)
        with tracing.step("stage infer", users=3), call, tracing.step("inside"):
            pass
    assert parents(spans) == [
        ("stage infer", None),
        ("model generate", "stage infer"),
        ("inside", "stage infer"),  # a call of a model is not made the current span
    ]
    assert dict(find(spans, "model generate")[0].attributes or {}) == {"mllm_msr.prompts": 7}


def test_batch_belongs_to_its_first_caller_and_is_linked_to_the_others() -> None:
    with received() as spans:
        callers = []
        for name in ("first", "second"):
            with tracing.step(name):
                callers.append(tracing.current())
        with tracing.model_call("score", callers=[*callers, None]):
            pass
    assert parents(spans)[-1] == ("model score", "first")
    (call,) = find(spans, "model score")
    (second,) = find(spans, "second")
    assert second.context
    assert [link.context.span_id for link in call.links] == [second.context.span_id]


def test_errors_are_recorded_and_raised() -> None:
    with (
        received() as spans,
        pytest.raises(ValueError, match="broken"),
        tracing.step("stage"),
        tracing.model_call("score"),
    ):
        raise ValueError("broken")
    for span in spans.get_finished_spans():
        assert not span.status.is_ok
        assert span.events[0].name == "exception"


class Collector(HTTPServer):
    """Collector of OpenTelemetry: the paths and contents that it received."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CollectorHandler)
        self.received: list[tuple[str, ExportTraceServiceRequest]] = []


class CollectorHandler(BaseHTTPRequestHandler):
    server: Collector

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            raise AssertionError("not expected")
        self.server.received.append((self.path, ExportTraceServiceRequest.FromString(content)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_spans_are_sent_to_the_collector_of_the_environment(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{collector.server_address[1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    with unset_provider():
        tracing.configure(os.environ)
        provider = trace.get_tracer_provider()
        tracing.configure(os.environ)  # a second time changes nothing
        assert trace.get_tracer_provider() is provider
        with tracing.step("stage prepare"):
            pass
        provider.shutdown()  # type: ignore[attr-defined]
    ((path, request),) = collector.received
    assert path == "/v1/traces"
    (resource,) = request.resource_spans
    names = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert names["service.name"] == "shop"
    assert [span.name for span in resource.scope_spans[0].spans] == ["stage prepare"]


def test_environment_without_a_collector_or_package(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with unset_provider():
        tracing.configure({})
        assert not tracing.is_active()
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
        tracing.configure({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
        assert not tracing.is_active()
    assert "the extra otel is not installed" in caplog.text
