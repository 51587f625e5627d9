"""Tests of the page in a real browser: content, mouse, keyboard, phones, API keys."""

from __future__ import annotations

import itertools
import shutil
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

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed"),
]

WIDE = {"width": 1300, "height": 900}
PHONE = {"width": 360, "height": 740}


def preference_model() -> online_worlds.FakeBackend:
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
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def url(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunModels, "open_ranker", lambda self, **_: online_worlds.FakeBackend())
        patch.setattr(RunModels, "open_preference_model", lambda self: preference_model())
        patch.setattr(RunModels, "fine_tuned", True)
        patch.setattr(Explainer, "matches", lambda *_: ("mood",))
        state = tmp_path_factory.mktemp("page") / "state.sqlite"
        overrides = [f"serve.state=sqlite:///{state}", "serve.update=event"]
        app = make_app(run, overrides=overrides, environment={})
        with listening(app) as found:
            yield found


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, url: str):
    """Return a function that opens the page; fail on errors and requests to other servers."""
    errors: list[str] = []
    contexts = []

    def open_page(user: str = "", **options):
        context = browser.new_context(**{"viewport": WIDE, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda request: (
                urlsplit(request.url).hostname == "127.0.0.1"
                or errors.append(f"requested {request.url}")
            ),
        )
        page.goto(f"{url}/#{user}")
        page.wait_for_selector("#list .like:enabled")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def titles(page) -> list[str]:
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


def test_page_shows_history_preference_and_recommendations(opened) -> None:
    page = opened()
    page.fill("#user", "user3")
    assert page.locator("#users option").first.get_attribute("value").startswith("user")
    page.click("text=Show")
    wait_for_preference(page, "user3")
    assert page.locator("#history li").count() in range(6, 9)
    assert page.locator("#history img").first.evaluate("image => image.naturalWidth") > 0
    assert "appears to have a preference" in page.inner_text("#preference")
    assert page.locator("#list li").count() == 8
    shares = page.locator("#list .score span:last-child").all_inner_texts()
    assert all(0 < float(share.removesuffix(" %")) < 100 for share in shares)
    page.hover("#list li:first-child")
    assert page.inner_text("#preference .hit") == "mood"
    latest = page.inner_text("#preference")
    page.click("#earlier")
    assert page.inner_text("#preference") != latest
    assert page.locator("#history .unread").count() > 0
    page.click("#later")
    assert page.inner_text("#preference") == latest


def test_like_changes_the_preference_and_the_list(opened) -> None:
    page = opened("user4")
    wait_for_preference(page, "user4")
    before, preference = titles(page), page.inner_text("#preference")
    n_items = page.locator("#history li").count()
    page.click("#list li:nth-child(2) .like")
    page.wait_for_selector('#status:has-text("in the list")')
    assert page.locator("#history li").count() == n_items + 1
    assert page.inner_text("#history .added .title") == before[1]
    assert page.inner_text("#preference") != preference
    assert page.locator("#preference .new").count() > 0
    after = titles(page)
    assert before[1] not in after
    fresh = page.locator("#list li.fresh .title").all_inner_texts()
    assert fresh == [title for title in after if title not in before]
    assert len(fresh) == 1


def test_failed_preference_update_is_reported(opened) -> None:
    page = opened("user6")
    wait_for_preference(page, "user6")

    def failing(route) -> None:
        response = route.fetch()
        body = response.json() | {"updating": True, "failure": {"reason": "garbage", "tries": 1}}
        body["preference_history"][-1]["flags"] = ["failed", "garbage"]
        route.fulfill(response=response, json=body)

    page.route("**/preference", failing)
    page.click("#list li:first-child .like")
    page.wait_for_selector('#status:has-text("not returned a usable preference")')
    assert "the last block failed" in page.inner_text("#progress")


def test_a_refresh_keeps_the_earlier_preference_that_is_shown(opened) -> None:
    page = opened("user3")
    held = []
    page.route("**/v1/recommendations", lambda route: held.append(route), times=1)  # noqa: PLW0108
    page.fill("#user", "user2")
    page.click("text=Show")
    while not held:  # the page asks for a list after it has shown the preference
        page.wait_for_timeout(10)
    page.click("#earlier")
    earlier = page.inner_text("#progress")
    with page.expect_response("**/preference"):  # the page reads the user again after the list
        held.pop().continue_()
    page.wait_for_selector("#list .like:enabled")
    page.wait_for_timeout(100)
    assert page.inner_text("#progress") == earlier
    page.click("#list li:first-child .like")
    page.wait_for_selector('#status:has-text("in the list")')
    n_items = page.locator("#history li").count()
    assert page.inner_text("#progress") == f"after {n_items} of {n_items} items"


def test_two_lists_are_compared(opened) -> None:
    page = opened("user5")
    assert not page.locator("#other").is_visible()
    page.select_option("#compare", "zero_shot")
    page.wait_for_selector("#other-list li")
    assert page.inner_text("#own-name") == "Fine-tuned"
    assert "Zero-shot" in page.inner_text("#other-name")
    page.select_option("#compare", "retrieval")
    page.wait_for_selector('#other-list .score:has-text("retrieved by")')
    assert page.locator("#other-list .bar").count() == 0


def test_new_user_starts_with_popular_items(opened) -> None:
    page = opened()
    page.click("text=New user")
    page.wait_for_selector("#reason:visible")
    assert "popular" in page.inner_text("#reason")
    page.click("#list li:first-child .like")
    page.wait_for_selector('#status:has-text("in the list")')
    assert "mood" in page.inner_text("#preference")
    assert not page.locator("#reason").is_visible()


def test_page_can_be_used_by_keyboard(opened) -> None:
    page = opened()

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.locator(f"{selector}:focus").count():
                return
        raise AssertionError(f"{selector} cannot be reached with Tab")

    tab_to("#user")
    page.keyboard.type("user6")
    page.keyboard.press("Enter")
    wait_for_preference(page, "user6")
    tab_to("#step")
    latest = page.inner_text("#progress")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(
        "latest => document.querySelector('#progress').value !== latest", arg=latest
    )
    page.keyboard.press("ArrowRight")
    tab_to("#list .like")
    outline = page.locator(".like:focus").evaluate(
        "button => getComputedStyle(button).outlineStyle"
    )
    assert outline == "solid"
    liked = titles(page)[0]
    page.keyboard.press("Enter")
    page.wait_for_selector('#status:has-text("in the list")')
    assert liked not in titles(page)
    assert page.locator("#list .like:focus").count() == 1
    assert page.get_attribute("#status", "aria-live") == "polite"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone_in_both_color_schemes(opened, scheme: str) -> None:
    page = opened("user7", viewport=PHONE, color_scheme=scheme, reduced_motion="reduce")
    page.select_option("#compare", "zero_shot")
    page.wait_for_selector("#other-list li")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    paper = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    shades = [int(part) for part in paper.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (max(shades) < 60) == (scheme == "dark")


def test_page_asks_for_the_key_once_and_loads_images_with_it(
    browser, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunModels, "open_ranker", lambda self, **_: online_worlds.FakeBackend())
    monkeypatch.setattr(RunModels, "open_preference_model", lambda self: preference_model())
    state = f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}"
    app = make_app(run, overrides=[state], environment={"MLLM_MSR_API_KEYS": "secret"})
    with listening(app) as found, browser.new_context(viewport=WIDE) as context:
        page = context.new_page()
        page.goto(found)
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#list .like:enabled")
        page.wait_for_selector('#history img[src^="blob:"]')
