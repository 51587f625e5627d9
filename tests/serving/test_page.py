"""Tests of the page in a real browser: content, users, lists, keyboard, phones, API keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from page_browser import PHONE, listening_with_fakes, titles, wait_for_preference

pytestmark = pytest.mark.slow


def test_page_shows_history_preference_and_recommendations(opened) -> None:
    page = opened()
    page.fill("#user", "user3")
    page.wait_for_selector("#users option", state="attached")
    assert page.locator("#users option").first.get_attribute("value").startswith("user")
    page.click("text=Show")
    wait_for_preference(page, "user3")
    assert page.locator("#history li").count() in range(6, 9)
    assert page.locator("#history img").first.evaluate("image => image.naturalWidth") > 0
    assert "appears to have a preference" in page.inner_text("#preference")
    assert page.locator("#list li").count() == 8
    matches = page.locator("#list .score > span:nth-child(2)").all_inner_texts()
    assert all(0 < float(match.removeprefix("match ")) < 1 for match in matches)
    assert "%" not in page.inner_text("#list")
    page.hover("#list li:first-child")
    assert page.inner_text("#preference .hit") == "mood"
    latest = page.inner_text("#preference")
    page.click("#earlier")
    assert page.inner_text("#preference") != latest
    assert page.locator("#history .unread").count() > 0
    assert "not the one shown here" in page.inner_text("#past")
    page.click("#later")
    assert page.inner_text("#preference") == latest
    assert not page.locator("#past").is_visible()


def test_page_of_a_run_without_preferences_shows_the_history_as_read(
    pages, scored_run: Path, tmp_path: Path
) -> None:
    state = f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}"
    reads = ("recommend.reads=history", "recommend.history_items=3", "infer.enabled=false")
    with listening_with_fakes(scored_run, state, *reads) as url:
        page = pages.open(f"{url}/#user3")
        assert page.locator("#history li").count() > 3
        assert page.locator("#history .unread").count() == 0
        assert "reads the titles of the latest 3 items" in page.inner_text("#preference")
        assert not page.locator("#generated").is_visible()
    assert pages.errors == []


def test_each_user_has_an_address_and_a_title(opened) -> None:
    page = opened("user1")
    page.fill("#user", "user2")
    page.keyboard.press("Enter")
    page.wait_for_selector('#status:text("Showing user2.")')
    assert page.title().startswith("user2 ")
    page.go_back()
    page.wait_for_selector('#status:text("Showing user1.")')
    assert (page.title().split()[0], page.input_value("#user")) == ("user1", "user1")
    page.go_forward()
    page.wait_for_selector('#status:text("Showing user2.")')
    page.evaluate("location.hash = 'user3'")
    page.wait_for_selector('#status:text("Showing user3.")')


@pytest.mark.parametrize("how", ["selected", "typed"])
def test_complete_id_shows_the_user_at_once(opened, how: str) -> None:
    page = opened("user1")
    page.click("#user")
    if how == "typed":
        page.keyboard.type("user5")
    else:  # what a browser does when a suggestion is selected
        page.wait_for_selector('#users option[value="user5"]', state="attached")
        page.evaluate(
            "() => { const input = document.querySelector('#user'); input.value = 'user5';"
            "input.dispatchEvent(new InputEvent('input', {inputType: 'insertReplacementText'})); }"
        )
    page.wait_for_selector('#status:text("Showing user5.")')


def test_unknown_id_asks_what_is_meant(pages, event_url: str) -> None:
    page = pages.open(f"{event_url}/#user1")
    page.fill("#user", "usre10")
    page.keyboard.press("Enter")
    page.wait_for_selector("#unknown[open]")
    assert page.inner_text("#unknown-title") == "There is no user “usre10”."
    page.click('#unknown-buttons >> text="user10"')
    page.wait_for_selector('#status:text("Showing user10.")')
    page.evaluate("location.hash = 'somebody'")
    page.wait_for_selector("#unknown[open]")
    page.keyboard.press("Escape")  # returns to the user before
    page.wait_for_selector('#status:text("Showing user10.")')
    page.evaluate("location.hash = 'somebody'")
    page.click("text=Start as a new user")
    page.wait_for_selector("#reason:visible")
    assert page.input_value("#user") == "somebody"
    assert "popular" in page.inner_text("#reason")


def test_two_lists_are_compared_row_by_row(opened) -> None:
    page = opened("user5")
    assert not page.locator("#other").is_visible()
    options = page.locator("#compare option").all_inner_texts()
    assert options == [
        "None", "Fine-tuned", "Zero-shot", "Item-kNN", "Popularity", "Retrieval only",
    ]  # fmt: skip
    page.select_option("#compare", "zero_shot")
    page.wait_for_selector("#other-list li")
    assert page.inner_text("#own-name") == "Fine-tuned"
    assert page.inner_text("#other-name") == "Zero-shot"
    # Both fake models give the same scores.
    assert page.inner_text("#difference") == "Both lists have the same items in the same order."
    page.select_option("#compare", "item_knn")
    page.wait_for_selector('#other-list .score:text("ranked by Item-kNN")')
    assert "same rank" in page.inner_text("#difference")
    tops = [
        page.locator(f"#{name} > li").evaluate_all("rows => rows.map(row => row.offsetTop)")
        for name in ("list", "other-list")
    ]
    n_rows = min(map(len, tops))
    assert tops[0][:n_rows] == tops[1][:n_rows]
    page.select_option("#model", "popularity")
    page.select_option("#compare", "retrieval")
    page.wait_for_selector('#other-list .score:has-text("found by")')
    assert page.inner_text("#own-name") == "Popularity"
    assert page.locator(".bar").count() == 0


def test_row_says_that_retrieval_has_moved_it(opened) -> None:
    def fuse(route) -> None:
        response = route.fetch()
        body = response.json()
        scores = (0.5, 0.9, 0.7, 0.2, 0.2, 0.1, 0.999, None)
        for item, score in zip(body["items"], scores, strict=True):
            item["score"] = score
        route.fulfill(response=response, json=body)

    page = opened("user8", before=lambda page: page.route("**/v1/recommendations", fuse))
    rows = page.locator("#list > li").all_inner_texts()
    moved = [next((line for line in row.split("\n") if "retr" in line), "") for row in rows]
    # Equal matches have no order among themselves.
    assert moved == ["+3 retrieval", "", "", "+1 retrieval", "", "+1 retrieval", "−6 retrieval", ""]
    assert "match > 0.99" in rows[6]
    assert "found by" in rows[7]


def test_item_opens_in_a_dialog(opened) -> None:
    page = opened("user9")
    title = titles(page)[0]
    page.click("#list li:first-child .title")
    page.wait_for_selector("#item[open]")
    assert page.inner_text("#item-title") == title
    about = page.inner_text("#item-about")
    assert "A thing" in about
    assert "Rank 1 in this list." in about
    assert "Matches in the preference or history: “mood”." in about
    page.wait_for_function("!document.querySelector('#item-about').innerText.includes('Loading')")
    page.keyboard.press("Escape")
    assert not page.locator("#item").is_visible()
    assert page.locator("#list li:first-child .title:focus").count() == 1
    page.click("#history li:first-child button")
    assert "Item 1 of" in page.inner_text("#item-about")
    assert page.locator("#item-buttons button").count() == 0  # it is in the run


def test_matched_titles_with_commas_are_told_apart(opened) -> None:
    def match(route) -> None:
        response = route.fetch()
        body = response.json()
        body["items"][0]["matches"] = ["Rain, Wind and Snow", "Harbor"]
        route.fulfill(response=response, json=body)

    page = opened("user8", before=lambda page: page.route("**/v1/recommendations", match))
    row = page.locator("#list > li:first-child .matches b")
    assert row.all_inner_texts() == ["Rain, Wind and Snow", "Harbor"]
    page.click("#list > li:first-child .title")
    page.wait_for_selector("#item[open]")
    about = page.inner_text("#item-about")
    assert "Matches in the preference or history: “Rain, Wind and Snow”, “Harbor”." in about


def test_dialog_says_why_the_model_was_not_asked(opened) -> None:
    given = ["not_needed", "beyond_budget", "scoring_failed"]

    def unscored(route) -> None:
        response = route.fetch()
        body = response.json()
        for item, reason in zip(body["items"], given, strict=False):
            item |= {"score": None, "reason": reason}
        route.fulfill(response=response, json=body)

    page = opened("user8", before=lambda page: page.route("**/v1/recommendations", unscored))
    shown = {}
    for rank, reason in enumerate([*given, "scored"], start=1):
        page.click(f"#list > li:nth-child({rank}) .title")
        page.wait_for_selector("#item[open]")
        lines = page.inner_text("#item-about").splitlines()
        shown[reason] = [line for line in lines if line.startswith("Not scored")]
        page.keyboard.press("Escape")
    assert shown == {
        "not_needed": ["Not scored: no further score was likely to change the list."],
        "beyond_budget": [
            "Not scored: it is not among the candidates that the model was to score."
        ],
        "scoring_failed": [],
        "scored": [],
    }


@pytest.mark.parametrize("budget", [0, 2])
def test_lists_have_the_number_of_model_calls_of_the_service(
    pages, scored_run: Path, tmp_path: Path, budget: int
) -> None:
    state = f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}"
    with listening_with_fakes(scored_run, state, f"retrieve.budget={budget}") as url:
        page = pages.open(f"{url}/#user3")
        page.wait_for_selector("#list .score")
        assert page.locator('#list .score:has-text("match")').count() == budget
        assert ("without model calls" in page.inner_text("#note")) == (not budget)
    assert pages.errors == []


def test_focus_returns_to_the_item_if_its_list_was_drawn_again(opened) -> None:
    page = opened("user5")
    page.focus("#list li:nth-child(2) .title")
    page.keyboard.press("Enter")
    page.wait_for_selector("#item[open]")
    page.evaluate(
        "() => { const row = document.querySelector('#list li:nth-child(2)');"
        "row.replaceWith(row.cloneNode(true)); }"
    )
    page.keyboard.press("Escape")
    page.wait_for_selector("#list li:nth-child(2) .title:focus")


def test_more_items_are_shown_on_request(opened) -> None:
    page = opened("user11")
    page.click("#more")
    page.wait_for_selector("#list li:nth-child(16)")
    assert page.locator("#list li").count() == 16


def test_links_lead_to_the_reference_metrics_and_health(pages, event_url: str) -> None:
    page = pages.open(event_url)
    for link, text in (("API reference", "POST"), ("Metrics", "mllm_msr"), ("Health", "status")):
        page.click(f"footer >> text={link}")
        page.wait_for_load_state()
        assert text in page.inner_text("body")
        page.go_back()
        page.wait_for_selector("#list .like")
    assert not page.locator("#report-link").is_visible()  # this run has no report


def test_page_can_be_used_by_keyboard(opened) -> None:
    page = opened()

    def tab_to(selector: str) -> None:
        for _ in range(60):
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
    tab_to("#list .dislike")
    page.keyboard.press("Enter")
    page.wait_for_selector('#status:has-text("is hidden from your lists")')
    assert page.locator("#list .dislike:focus").count() == 1
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")  # the title
    page.wait_for_selector("#item[open]")


@pytest.mark.parametrize("width", [390, 320])
def test_page_fits_a_phone_and_keeps_the_preference_in_view(opened, width: int) -> None:
    page = opened("user7", viewport={**PHONE, "width": width}, reduced_motion="reduce")
    page.select_option("#compare", "zero_shot")
    page.wait_for_selector("#other-list li")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    box = page.locator("#now").bounding_box()
    assert 0 <= box["y"] < 20
    assert box["height"] < 60  # one line
    assert page.inner_text("#now").startswith("The user appears")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_follow_the_scheme(opened, scheme: str) -> None:
    page = opened("user7", color_scheme=scheme)
    paper = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    shades = [int(part) for part in paper.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (max(shades) < 60) == (scheme == "dark")


def test_status_covers_no_list_and_no_control(opened) -> None:
    page = opened("user8")
    notice = page.locator(".notice").bounding_box()
    boxes = page.locator("#list > li, .menus select, #history, #preference").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().toJSON())"
    )
    assert len(boxes) == 12
    for box in boxes:
        below = box["top"] >= notice["y"] + notice["height"]
        above = box["bottom"] <= notice["y"]
        beside = box["right"] <= notice["x"]
        assert below or above or beside


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 390])
def test_page_has_no_accessibility_violations(opened, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    options = {"viewport": {"width": width, "height": 900}, "reduced_motion": "reduce"}
    page = opened("user4", color_scheme=scheme, **options)
    page.select_option("#compare", "item_knn")
    page.wait_for_selector("#other-list li")
    assert axe.run(page).violations_count == 0, axe.run(page).generate_report()
    page.click("#list li:first-child .title")
    page.wait_for_selector("#item[open]")
    assert axe.run(page).violations_count == 0, axe.run(page).generate_report()
    page.keyboard.press("Escape")
    page.click("footer >> text=API reference")
    page.wait_for_selector("#schemas")
    assert axe.run(page).violations_count == 0, axe.run(page).generate_report()


def test_page_asks_for_the_key_once_and_loads_images_with_it(
    browser, scored_run: Path, tmp_path: Path
) -> None:
    state = f"serve.state=sqlite:///{tmp_path / 'state.sqlite'}"
    with (
        listening_with_fakes(scored_run, state, key="secret") as found,
        browser.new_context() as context,
    ):
        page = context.new_page()
        late = []

        def hold(route) -> None:
            late.append(route)

        page.route("**/v1/models", hold, times=1)
        page.goto(found)
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#ask-key", state="hidden")
        late[0].continue_()  # rejected after the key was entered
        page.wait_for_selector("#list .like:enabled")
        page.wait_for_selector('#history img[src^="blob:"]')
        assert not page.locator("#ask-key").is_visible()
        # Links cannot send the key.
        assert not page.locator("#metrics-link").is_visible()
        page.click("footer >> text=API reference")
        page.wait_for_selector("#schemas")
