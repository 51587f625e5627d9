"""Fixtures of a served run with fake models, and of its page in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import online_worlds
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.recommend.run_models import RunModels
from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.server import make_app
from mllm_msr.serving.state import ServiceState
from page_browser import Pages, listening_with_fakes

Serve = Callable[..., TestClient]
Start = Callable[[], OnlineEngine]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return online_worlds.make_run(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def scored_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with scores of two baselines."""
    folder = tmp_path_factory.mktemp("scored")
    return online_worlds.make_run(folder, baselines=("item_knn", "popularity"))


@pytest.fixture
def ranker(monkeypatch: pytest.MonkeyPatch) -> online_worlds.FakeBackend:
    """Replace the ranker of the run."""
    fake = online_worlds.FakeBackend()
    monkeypatch.setattr(RunModels, "open_ranker", lambda self, **_: fake)
    return fake


@pytest.fixture
def preference_model(monkeypatch: pytest.MonkeyPatch) -> online_worlds.FakeBackend:
    """Replace the model that generates preferences and summaries."""
    fake = online_worlds.FakeBackend()
    monkeypatch.setattr(RunModels, "open_preference_model", lambda self: fake)
    return fake


@pytest.fixture
def serve(
    run: Path,
    tmp_path: Path,
    ranker: online_worlds.FakeBackend,
    preference_model: online_worlds.FakeBackend,
) -> Iterator[Serve]:
    """Return a function that starts the application on one database and stops the previous one."""
    with ExitStack() as started:

        def start(*overrides: str, key: str = "", folder: Path = run) -> TestClient:
            started.close()
            app = make_app(
                folder,
                overrides=[f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}", *overrides],
                environment={"MLLM_MSR_API_KEYS": key},
            )
            return started.enter_context(TestClient(app, base_url="http://localhost"))

        yield start
        ranker.gate.set()
        preference_model.gate.set()


@pytest.fixture
def start(
    run: Path,
    tmp_path: Path,
    ranker: online_worlds.FakeBackend,
    preference_model: online_worlds.FakeBackend,
) -> Iterator[Start]:
    """Return a function that creates an engine on one database, in an event loop."""
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
        ranker.gate.set()
        preference_model.gate.set()


@pytest.fixture(scope="module")
def event_url(scored_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a service that updates preferences after each event."""
    state = tmp_path_factory.mktemp("page") / "state.sqlite"
    overrides = (f"serve.state=sqlite:///{state}", "serve.update=event")
    with listening_with_fakes(scored_run, *overrides) as url:
        yield url


@pytest.fixture(scope="module")
def block_url(scored_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a service that updates preferences after each block."""
    state = tmp_path_factory.mktemp("page") / "state.sqlite"
    with listening_with_fakes(scored_run, f"serve.state=sqlite:///{state}") as url:
        yield url


# Per module: the loop of an open browser would be in the way of other modules' event loops.
@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def pages(browser) -> Iterator[Pages]:
    opened = Pages(browser)
    yield opened
    opened.close()


@pytest.fixture
def opened(pages: Pages, event_url: str):
    """Return a function that opens the page of a user; the test fails if there are errors."""

    def open_page(user: str = "", **options):
        return pages.open(f"{event_url}/#{user}", **options)

    yield open_page
    assert pages.errors == []
