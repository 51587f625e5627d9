"""A served run: the application with models that obey the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import online_worlds
from mllm_msr.recommending import MllmMsr
from mllm_msr.serving.running import make_app

Serve = Callable[..., TestClient]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return online_worlds.make_run(tmp_path_factory.mktemp("served"))


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> online_worlds.MoodyBackend:
    made = online_worlds.MoodyBackend()
    monkeypatch.setattr(MllmMsr, "open_backend", lambda self: made)
    return made


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> online_worlds.MoodyBackend:
    made = online_worlds.MoodyBackend()
    monkeypatch.setattr(MllmMsr, "open_writer", lambda self: made)
    return made


@pytest.fixture
def serve(
    run: Path,
    tmp_path: Path,
    scorer: online_worlds.MoodyBackend,
    writer: online_worlds.MoodyBackend,
) -> Iterator[Serve]:
    """Starts the application over one database, after stopping the one started before."""
    with ExitStack() as started:

        def start(*overrides: str, key: str = "") -> TestClient:
            started.close()
            app = make_app(
                run,
                overrides=[f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}", *overrides],
                environment={"MLLM_MSR_API_KEYS": key},
            )
            return started.enter_context(TestClient(app, base_url="http://localhost"))

        yield start
        scorer.gate.set()
        writer.gate.set()
