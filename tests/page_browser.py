"""Page of a served run with fake models, in a browser."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi import FastAPI

import online_worlds
from mllm_msr.recommend.explanations import Explainer
from mllm_msr.recommend.run_models import RunModels
from mllm_msr.serving.server import make_app
from mllm_msr.types import Completion, Prompt

WIDE = {"width": 1300, "height": 900}
PHONE = {"width": 390, "height": 844}


def changing_preference_model() -> online_worlds.FakeBackend:
    """Return a backend that writes another preference each time, so that changes are visible."""
    backend, numbers = online_worlds.FakeBackend(), itertools.count(1)

    def generate(prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        for index, _ in enumerate(prompts):
            text = f"The user appears to have a preference for mood {next(numbers)}."
            yield index, Completion(text)

    backend.generate = generate
    return backend


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Serve the application on a real socket and yield its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:  # a thread that is left behind keeps the process alive
        server.should_exit = True
        thread.join()


@contextmanager
def listening_with_fakes(run: Path, *overrides: str, key: str = "") -> Iterator[str]:
    """Serve a run with fake models on a real socket and yield its URL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunModels, "open_ranker", lambda self, **_: online_worlds.FakeBackend())
        patch.setattr(RunModels, "open_preference_model", lambda _: changing_preference_model())
        patch.setattr(RunModels, "fine_tuned", True)
        patch.setattr(Explainer, "matches", lambda *_: ("mood",))
        app = make_app(run, overrides=overrides, environment={"MLLM_MSR_API_KEYS": key})
        with listening(app) as url:
            yield url


class Pages:
    """Pages of one test; `errors` has what browsers report as errors.

    Attributes:
        errors: Errors on the console, exceptions, and requests to other servers.
    """

    def __init__(self, browser) -> None:
        self.errors: list[str] = []
        self._browser = browser
        self._contexts = []

    def open(self, url: str, *, loaded: str = "#list .like:enabled", before=None, **options):
        """Open the page in a new context, after `before`, and wait until it has loaded."""
        context = self._browser.new_context(**{"viewport": WIDE, **options})
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type == "error" and self.errors.append(m.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "request",
            lambda request: (
                urlsplit(request.url).hostname == "127.0.0.1"
                or self.errors.append(f"requested {request.url}")
            ),
        )
        if before is not None:
            before(page)
        page.goto(url)
        page.wait_for_selector(loaded)
        return page

    def close(self) -> None:
        for context in self._contexts:
            for page in context.pages:
                # A request that is still in a route's handler must not fail in the next test.
                page.unroute_all(behavior="ignoreErrors")
            context.close()


def titles(page) -> list[str]:
    """Return the titles of the first list."""
    return page.locator("#list .title").all_inner_texts()


def wait_for_preference(page, user: str) -> None:
    """Wait until the latest preference includes the full history."""
    page.wait_for_selector(f'#status:has-text("{user}")')
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        n_items = page.locator("#history li").count()
        if page.inner_text("#progress") == f"after {n_items} of {n_items} items":
            return
        time.sleep(0.05)
    raise AssertionError(page.inner_text("#progress"))
