"""Spans of requests to the service and of the stages of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import mock_runs
from mllm_msr.pipeline.pipeline import Pipeline
from traces import find, parents, received

Serve = Callable[..., TestClient]


def test_request_has_a_span_for_each_step_and_model_call(serve: Serve) -> None:
    with received() as spans:
        web = serve("serve.warm_items=0")
        body = {"user_id": "user3", "k": 3, "budget": 4}
        assert web.post("/v1/recommendations", json=body).status_code == 200
        web.get("/metrics")
        web.get("/healthz")
    found = parents(spans)
    request = "POST /v1/recommendations"
    assert ("retrieve", request) in found
    assert ("score", request) in found
    assert ("model score", "score") in found
    assert not [name for name, _ in found if "metrics" in name or "healthz" in name]
    calls = [dict(one.attributes or {}) for one in find(spans, "model score")]
    assert {"mllm_msr.prompts": 4} in calls
    texts = [str(one.to_json()) for one in spans.get_finished_spans()]
    assert not any("user3" in text or "item1" in text for text in texts)


def test_service_is_not_instrumented_by_default(serve: Serve) -> None:
    assert not getattr(serve().app, "_is_instrumented_by_opentelemetry", False)
    with received():
        assert serve().app._is_instrumented_by_opentelemetry


def test_stages_have_spans_with_their_model_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    settings = mock_runs.load(mock_runs.world(tmp_path / "data"))
    with received() as spans, Pipeline.open(tmp_path / "run", settings) as pipeline:
        for name in ("prepare", "summarize"):
            pipeline.run_stage(name)
        pipeline.run_stage("summarize")  # is finished, so that it has no second span
    found = parents(spans)
    assert [name for name, _ in found if name.startswith("stage")] == [
        "stage prepare", "stage summarize"
    ]  # fmt: skip
    assert ("model generate", "stage summarize") in found
    call = dict(find(spans, "model generate")[0].attributes or {})
    assert call["mllm_msr.model"] == "mock:mock "
    assert call["mllm_msr.prompts"] > 0
