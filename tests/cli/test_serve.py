"""`serve` and `demo --serve`: what is served, where, and what is refused before any work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from mllm_msr.cli import app, stages
from mllm_msr.errors import MissingExtraError
from mllm_msr.serving import server

RUNNER = CliRunner()


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was done, in order: stages, results shown, runs served."""
    seen: list[Any] = []

    @contextmanager
    def open_pipeline(*_: Any, **__: Any) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(run_all=lambda: seen.append("stages"))
        seen.append("closed")

    def serve(run: Path, **options: Any) -> None:
        options.pop("announce")("http://127.0.0.1:7")
        seen.append((run, options))

    monkeypatch.setattr(stages, "open_pipeline", open_pipeline)
    monkeypatch.setattr(stages, "show_result", lambda *_, **__: seen.append("shown"))
    monkeypatch.setattr(server, "serve", serve)
    return seen


def test_the_demo_is_served_after_its_folder_was_let_go(done: list[Any]) -> None:
    found = RUNNER.invoke(app, ["demo", "--run", "there", "--serve", "--port", "7"])
    assert found.exit_code == 0
    assert "serving there on http://127.0.0.1:7" in found.output
    options = {"host": "127.0.0.1", "port": 7, "overrides": ["serve.update=event"]}
    assert done == ["stages", "shown", "closed", (Path("there"), options)]


def test_without_being_asked_the_demo_serves_nothing(done: list[Any]) -> None:
    assert RUNNER.invoke(app, ["demo", "--run", "there"]).exit_code == 0
    assert done == ["stages", "shown", "closed"]


@pytest.mark.parametrize("arguments", [["demo", "--serve"], ["serve"]])
def test_a_missing_package_is_told_before_anything_is_done(
    done: list[Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    found = RUNNER.invoke(app, arguments)
    assert isinstance(found.exception, MissingExtraError)
    assert "mllm-msr[serve]" in str(found.exception)
    assert done == []


def test_serve_hands_on_what_it_is_given(done: list[Any]) -> None:
    found = RUNNER.invoke(app, ["serve", "--run", "there", "--port", "0", "serve.update=event"])
    assert found.exit_code == 0
    options = {"host": "127.0.0.1", "port": 0, "overrides": ["serve.update=event"]}
    assert done == [(Path("there"), options)]
