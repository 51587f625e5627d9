"""Tests of likes, dislikes, updates and their undoing on the page, in a real browser."""

from __future__ import annotations

import pytest

from page_browser import PHONE, titles, wait_for_preference

pytestmark = pytest.mark.slow


def test_like_is_visible_before_the_service_has_answered(opened) -> None:
    page = opened("user2", viewport={"width": 1000, "height": 800})
    held = []
    page.route("**/v1/events", lambda route: held.append(route), times=1)  # noqa: PLW0108
    n_items, title = page.locator("#history li").count(), titles(page)[1]
    page.click("#list li:nth-child(2) .like")
    page.wait_for_selector("#history .added.pulse")
    assert page.locator("#history li").count() == n_items + 1
    assert page.inner_text("#history .added .title") == title
    page.wait_for_function(
        "() => { const strip = document.querySelector('#history').getBoundingClientRect();"
        "const tile = document.querySelector('#history .added').getBoundingClientRect();"
        "return tile.left >= strip.left && tile.right <= strip.right + 1; }"
    )
    page.click("#list li:nth-child(2) .like")  # is ignored
    held.pop().continue_()
    page.wait_for_selector('#status:has-text("in the list")')
    assert (page.locator("#history li").count(), held) == (n_items + 1, [])


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
    assert page.locator("#preference.flash").count() == 1
    after = titles(page)
    assert before[1] not in after
    fresh = page.locator("#list li.fresh .title").all_inner_texts()
    assert fresh == [title for title in after if title not in before]
    assert len(fresh) == 1


@pytest.mark.parametrize("stays", [True, False])
def test_an_open_dialog_follows_its_list(opened, *, stays: bool) -> None:
    page = opened("user7")
    wait_for_preference(page, "user7")
    held = []
    page.route("**/v1/recommendations", lambda route: held.append(route), times=1)  # noqa: PLW0108
    page.click("#list li:last-child .like")
    while not held:  # the page asks for a list after the preference has changed
        page.wait_for_timeout(10)
    shown = page.get_attribute("#list li:nth-child(3)", "data-item")
    page.click("#list li:nth-child(3) .title")
    assert "Rank 3 in this list." in page.inner_text("#item-about")
    page.focus("#item-buttons button:nth-child(2)")
    response = held[0].fetch()
    body = response.json()
    others = [item for item in body["items"] if item["item_id"] != shown]
    found = [others[0] | {"item_id": shown}, *others] if stays else others
    body["items"] = [item | {"rank": rank} for rank, item in enumerate(found, start=1)]
    held[0].fulfill(response=response, json=body)
    page.wait_for_selector('#status:has-text("in the list")')
    expected = "Rank 1 in this list." if stays else "The new list does not contain it."
    about = page.inner_text("#item-about")
    assert expected in about
    assert "Rank 3" not in about
    assert page.locator("#item-buttons button:nth-child(2):focus").count() == 1


def test_an_open_dialog_follows_the_history(opened) -> None:
    page = opened("user9")
    wait_for_preference(page, "user9")
    held = []
    page.route("**/v1/events", lambda route: held.append(route), times=1)  # noqa: PLW0108
    page.click("#list li:first-child .like")
    n_items = page.locator("#history li").count()
    page.click("#history li:last-child button")
    about = page.inner_text("#item-about")
    assert f"Item {n_items} of {n_items}. The latest preference does not include it yet." in about
    assert page.locator("#item-buttons button").count() == 0
    held.pop().continue_()
    page.wait_for_selector('#status:has-text("in the list")')
    about = page.inner_text("#item-about")
    assert f"Item {n_items} of {n_items}. The latest preference includes it." in about
    page.click("text=Remove from the history")
    page.wait_for_selector(f"#history li >> nth={n_items - 1}", state="detached")


def test_like_can_be_undone_at_once_and_later(opened) -> None:
    page = opened("user10")
    wait_for_preference(page, "user10")
    before, n_items = titles(page), page.locator("#history li").count()
    for _ in range(2):
        page.click("#list li:nth-child(1) .like")
        page.wait_for_selector('#status:has-text("in the list")')
    assert page.locator("#history li").count() == n_items + 2
    page.click("#undo")
    page.wait_for_selector('#status:has-text("Undone")')
    page.wait_for_selector(f"#history li >> nth={n_items + 1}", state="detached")
    page.click("#history li:last-child button")
    page.click("text=Remove from the history")
    page.wait_for_selector(f"#history li >> nth={n_items}", state="detached")
    wait_for_preference(page, "Undone")
    page.wait_for_function(
        "before => document.querySelector('#list .title').textContent === before", arg=before[0]
    )
    assert titles(page) == before


def test_hidden_item_can_be_shown_again(opened) -> None:
    page = opened("user3")
    before = titles(page)
    page.click("#list li:first-child .dislike")
    page.wait_for_selector('#status:has-text("is hidden from your lists")')
    page.wait_for_selector("#hidden:visible")
    assert before[0] not in titles(page)
    page.reload()
    page.wait_for_selector("#hidden:visible")
    page.wait_for_selector("#list .like")
    assert before[0] not in titles(page)
    page.click("#hidden-count")
    page.click("text=Show again")
    page.wait_for_selector("#hidden", state="hidden")
    page.wait_for_function(
        "title => document.querySelector('#list .title').textContent === title", arg=before[0]
    )


def test_progress_to_the_next_update_and_update_on_request(pages, block_url: str) -> None:
    page = pages.open(f"{block_url}/#user3")
    page.wait_for_selector('#status:text("Showing user3.")')
    page.click("#list li:first-child .like")
    page.wait_for_selector('#status:has-text("in the list")')
    n_items = page.locator("#history li").count()
    while page.inner_text("#progress") == f"after {n_items} of {n_items} items":
        page.click("#list li:first-child .like")  # completed a block
        page.wait_for_function(
            "n => document.querySelectorAll('#history li').length > n", arg=n_items
        )
        page.wait_for_selector('#status:has-text("in the list")')
        n_items = page.locator("#history li").count()
    assert "new items until the preference is updated." in page.inner_text("#next")
    assert page.locator("#next-bar").is_visible()
    page.click("#update-now")
    page.wait_for_selector(f'#status:has-text("The preference includes all {n_items} items")')
    assert page.inner_text("#progress") == f"after {n_items} of {n_items} items"
    assert not page.locator("#next").is_visible()
    assert pages.errors == []


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
    page.wait_for_selector('#next:has-text("not returned a usable preference")')
    assert "the last block failed" in page.inner_text("#progress")


def test_a_refresh_keeps_the_earlier_preference_that_is_shown(opened) -> None:
    page = opened("user3")
    held = []
    page.route("**/v1/recommendations", lambda route: held.append(route), times=1)  # noqa: PLW0108
    page.fill("#user", "user8")
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


def test_new_user_starts_with_popular_items(opened) -> None:
    page = opened()
    page.click("text=New user")
    page.wait_for_selector("#reason:visible")
    assert "popular" in page.inner_text("#reason")
    page.click("#list li:first-child .like")
    page.wait_for_selector('#status:has-text("in the list")')
    assert "mood" in page.inner_text("#preference")
    assert not page.locator("#reason").is_visible()
    page.click("#undo")  # nothing of the user is left
    page.wait_for_selector("#reason:visible")
    assert page.locator("#history li").count() == 0


def test_phone_shows_that_the_preference_has_changed(opened) -> None:
    page = opened("user1", viewport=PHONE)
    wait_for_preference(page, "user1")
    before = page.inner_text("#now")
    page.locator("#list li:nth-child(5) .like").click()
    page.wait_for_selector('#status:has-text("in the list")')
    assert page.inner_text("#now") != before
    box = page.locator("#now.flash").bounding_box()
    assert 0 <= box["y"] < PHONE["height"]
