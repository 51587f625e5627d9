"""The page in a real browser: what is seen, done by mouse and by keys, and who is asked."""

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
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.server import make_app
from mllm_msr.types import Completion, Prompt

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium here"),
]

WIDE = {"width": 1300, "height": 900}
PHONE = {"width": 360, "height": 740}


def writer() -> online_worlds.MoodyBackend:
    """Writes another preference each time, so that a change can be seen."""
    made, numbers = online_worlds.MoodyBackend(), itertools.count(1)

    def generate(prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        for index, _ in enumerate(prompts):
            text = f"The user appears to have a preference for mood {next(numbers)}."
            yield index, Completion(text)

    made.generate = generate
    return made


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The application behind a real socket, and its URL."""
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
        patch.setattr(MllmMsr, "open_backend", lambda self, **_: online_worlds.MoodyBackend())
        patch.setattr(MllmMsr, "open_writer", lambda self: writer())
        patch.setattr(MllmMsr, "trained", True)
        patch.setattr(Explainer, "shared", lambda *_: ("mood",))
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
    """Opens the page, and fails the test that was told of an error or asked elsewhere."""
    faults: list[str] = []
    contexts = []

    def open_page(user: str = "", **options):
        context = browser.new_context(**{"viewport": WIDE, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda told: told.type == "error" and faults.append(told.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda asked: (
                urlsplit(asked.url).hostname == "127.0.0.1" or faults.append(f"asked {asked.url}")
            ),
        )
        page.goto(f"{url}/#{user}")
        page.wait_for_selector("#list .like:enabled")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def titles(page) -> list[str]:
    return page.locator("#list .title").all_inner_texts()


def settled(page, user: str) -> None:
    """Wait until the newest preference has read the whole history."""
    page.wait_for_selector(f'#status:has-text("{user}")')
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        n_items = page.locator("#history li").count()
        if page.inner_text("#moment") == f"after {n_items} of {n_items} items":
            return
        time.sleep(0.05)
    raise AssertionError(page.inner_text("#moment"))


def test_a_user_his_history_his_preference_and_what_they_lead_to(opened) -> None:
    page = opened()
    page.fill("#user", "user3")
    assert page.locator("#users option").first.get_attribute("value").startswith("user")
    page.click("text=Show")
    settled(page, "user3")
    assert page.locator("#history li").count() in range(6, 9)
    assert page.locator("#history img").first.evaluate("image => image.naturalWidth") > 0
    assert "appears to have a preference" in page.inner_text("#preference")
    assert page.locator("#list li").count() == 8
    shares = page.locator("#list .chance span:last-child").all_inner_texts()
    assert all(0 < float(share.removesuffix(" %")) < 100 for share in shares)
    page.hover("#list li:first-child")
    assert page.inner_text("#preference .hit") == "mood"
    newest = page.inner_text("#preference")
    page.click("#earlier")
    assert page.inner_text("#preference") != newest
    assert page.locator("#history .unread").count() > 0
    page.click("#later")
    assert page.inner_text("#preference") == newest


def test_a_like_moves_the_preference_and_the_list(opened) -> None:
    page = opened("user4")
    settled(page, "user4")
    before, preference = titles(page), page.inner_text("#preference")
    n_items = page.locator("#history li").count()
    page.click("#list li:nth-child(2) .like")
    page.wait_for_selector('#status:has-text("of the list")')
    assert page.locator("#history li").count() == n_items + 1
    assert page.inner_text("#history .added .title") == before[1]
    assert page.inner_text("#preference") != preference
    assert page.locator("#preference .new").count() > 0
    after = titles(page)
    assert before[1] not in after
    fresh = page.locator("#list li.fresh .title").all_inner_texts()
    assert fresh == [title for title in after if title not in before]
    assert len(fresh) == 1


def test_a_preference_that_cannot_be_written_is_told(opened) -> None:
    page = opened("user6")
    settled(page, "user6")

    def failing(route) -> None:
        answer = route.fetch()
        told = answer.json() | {"updating": True, "failure": {"reason": "garbage", "tries": 1}}
        told["preference_history"][-1]["flags"] = ["failed", "garbage"]
        route.fulfill(response=answer, json=told)

    page.route("**/preference", failing)
    page.click("#list li:first-child .like")
    page.wait_for_selector('#status:has-text("no usable answer")')
    assert "the last block has no answer" in page.inner_text("#moment")


def test_two_models_side_by_side(opened) -> None:
    page = opened("user5")
    assert not page.locator("#other").is_visible()
    page.select_option("#compare", "untuned")
    page.wait_for_selector("#other-list li")
    assert page.inner_text("#own-name") == "Fine-tuned model"
    assert "Without fine-tuning" in page.inner_text("#other-name")
    page.select_option("#compare", "generators")
    page.wait_for_selector('#other-list .chance:has-text("proposed by")')
    assert page.locator("#other-list .bar").count() == 0


def test_a_new_visitor_begins_with_what_is_popular(opened) -> None:
    page = opened()
    page.click("text=New visitor")
    page.wait_for_selector("#reason:visible")
    assert "popular" in page.inner_text("#reason")
    page.click("#list li:first-child .like")
    page.wait_for_selector('#status:has-text("of the list")')
    assert "mood" in page.inner_text("#preference")
    assert not page.locator("#reason").is_visible()


def test_keys_are_enough(opened) -> None:
    page = opened()

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.locator(f"{selector}:focus").count():
                return
        raise AssertionError(f"no Tab leads to {selector}")

    tab_to("#user")
    page.keyboard.type("user6")
    page.keyboard.press("Enter")
    settled(page, "user6")
    tab_to("#step")
    newest = page.inner_text("#moment")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(
        "newest => document.querySelector('#moment').value !== newest", arg=newest
    )
    page.keyboard.press("ArrowRight")
    tab_to("#list .like")
    outline = page.locator(".like:focus").evaluate(
        "button => getComputedStyle(button).outlineStyle"
    )
    assert outline == "solid"
    liked = titles(page)[0]
    page.keyboard.press("Enter")
    page.wait_for_selector('#status:has-text("of the list")')
    assert liked not in titles(page)
    assert page.locator("#list .like:focus").count() == 1
    assert page.get_attribute("#status", "aria-live") == "polite"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_in_both_schemes(opened, scheme: str) -> None:
    page = opened("user7", viewport=PHONE, color_scheme=scheme, reduced_motion="reduce")
    page.select_option("#compare", "untuned")
    page.wait_for_selector("#other-list li")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    paper = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    shades = [int(part) for part in paper.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (max(shades) < 60) == (scheme == "dark")


def test_a_key_is_asked_for_once_and_images_come_with_it(
    browser, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MllmMsr, "open_backend", lambda self, **_: online_worlds.MoodyBackend())
    monkeypatch.setattr(MllmMsr, "open_writer", lambda self: writer())
    state = f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}"
    app = make_app(run, overrides=[state], environment={"MLLM_MSR_API_KEYS": "secret"})
    with listening(app) as found, browser.new_context(viewport=WIDE) as context:
        page = context.new_page()
        page.goto(found)
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#list .like:enabled")
        page.wait_for_selector('#history img[src^="blob:"]')
