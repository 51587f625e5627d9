"""`demo`: runs the pipeline with the preset `demo`, then serves the run with `--serve`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mllm_msr.cli import demo
from mllm_msr.errors import MissingExtraError


@pytest.fixture
def actions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the pipeline and the service, and record their calls in order."""
    seen: list[Any] = []

    @contextmanager
    def open_pipeline(run: Path, preset: str, *_: Any, **__: Any) -> Iterator[SimpleNamespace]:
        def run_all() -> None:
            seen.append((run, preset))

        yield SimpleNamespace(run_all=run_all)
        seen.append("closed")

    def serve_run(run: Path, **options: Any) -> None:
        seen.append(options)

    monkeypatch.setattr(demo, "open_pipeline", open_pipeline)
    monkeypatch.setattr(demo, "serve_run", serve_run)
    monkeypatch.setattr(demo, "emit_results", lambda *_, **__: seen.append("results"))
    return seen


def test_it_runs_the_preset_demo(invoke, actions: list[Any]) -> None:
    assert invoke("demo", "--run", "folder").exit_code == 0
    assert actions == [(Path("folder"), "demo"), "results", "closed"]


def test_serving_starts_after_the_folder_is_closed(invoke, actions: list[Any]) -> None:
    assert invoke("demo", "--run", "folder", "--serve", "--port", 7).exit_code == 0
    options = {"host": "127.0.0.1", "port": 7, "overrides": ["serve.update=event"]}
    assert actions == [(Path("folder"), "demo"), "results", "closed", options]


def test_a_missing_package_is_reported_before_the_run_starts(
    fail, actions: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"mllm-msr\[serve\]"):
        fail("demo", "--serve")
    assert actions == []
