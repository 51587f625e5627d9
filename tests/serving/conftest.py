"""A served run: the application with models that obey the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import online_worlds
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.server import make_app
from mllm_msr.serving.state import ServiceState

Serve = Callable[..., TestClient]
Start = Callable[[], OnlineEngine]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return online_worlds.make_run(tmp_path_factory.mktemp("served"))


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> online_worlds.MoodyBackend:
    made = online_worlds.MoodyBackend()
    monkeypatch.setattr(MllmMsr, "open_backend", lambda self, **_: made)
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


@pytest.fixture
def start(
    run: Path,
    tmp_path: Path,
    scorer: online_worlds.MoodyBackend,
    writer: online_worlds.MoodyBackend,
) -> Iterator[Start]:
    """Makes an engine over one database; to be called in an event loop."""
    with ExitStack() as opened:

        def make() -> OnlineEngine:
            model = MllmMsr.from_run(run)
            state = ServiceState(f"sqlite:///{tmp_path / 'state.sqlite'}")
            opened.callback(state.close)
            return OnlineEngine(
                model,
                state,
                settings=model.settings.serve,
                images=tmp_path / "images",
                metrics=Metrics(),
            )

        yield make
        scorer.gate.set()
        writer.gate.set()
