"""Tests of the page with a slow or failing service, in a real browser."""

from __future__ import annotations

import pytest

from page_browser import titles

pytestmark = pytest.mark.slow

OVERLOADED = "The service is overloaded. Send the request again later."


def answer(status: int, detail: str, **headers: str):
    """Return a handler of requests that answers with an error."""
    return lambda route: route.fulfill(status=status, json={"detail": detail}, headers=headers)


def unranked(route) -> None:
    """Answer with a list in another order, as if the model had not scored it in time."""
    response = route.fetch()
    body = response.json() | {"fallback_reason": "model_slow"}
    items = [item | {"score": None, "reason": "model_slow"} for item in reversed(body["items"])]
    body["items"] = [item | {"rank": rank} for rank, item in enumerate(items, start=1)]
    route.fulfill(response=response, json=body)


def slow_zero_shot(route) -> None:
    """Answer as if only the zero-shot model were slow."""
    if route.request.post_data_json["model"] == "zero_shot":
        unranked(route)
    else:
        route.continue_()


def test_loading_page_has_placeholders_and_says_that_it_is_busy(pages, event_url: str) -> None:
    held = []

    def hold(page) -> None:
        for pattern in ("**/preference", "**/v1/recommendations"):
            page.route(pattern, lambda route: held.append(route), times=1)  # noqa: PLW0108

    page = pages.open(f"{event_url}/#user3", loaded="#list .skeleton", before=hold)
    while not held:
        page.wait_for_timeout(10)
    assert page.get_attribute("#profile", "aria-busy") == "true"
    assert page.locator("#history .skeleton").count() > 0
    assert page.inner_text("#status") == "Loading user3 …"
    held.pop().continue_()
    while not held:
        page.wait_for_timeout(10)
    assert page.get_attribute("#profile", "aria-busy") is None
    assert page.locator("#history img").count() > 0
    assert page.get_attribute("#lists", "aria-busy") == "true"
    assert page.locator("#list .skeleton").count() == 8
    held.pop().continue_()
    page.wait_for_selector('#status:text("Showing user3.")')
    # The list is requested again if the preference was updated meanwhile.
    page.wait_for_selector("#lists:not([aria-busy])")
    assert page.locator(".skeleton").count() == 0


def test_failed_list_stays_an_error_until_trying_again_succeeds(pages, event_url: str) -> None:
    page = pages.open(
        f"{event_url}/#user3",
        loaded="#list-problem:visible",
        before=lambda page: page.route("**/v1/recommendations", answer(500, "It broke.")),
    )
    assert page.locator("#list li").count() == 0
    assert "It broke." in page.inner_text("#list-problem")
    assert page.inner_text("#list-problem button") == "Try again"  # waiting does not help
    assert page.inner_text("#preference") != ""
    page.unroute_all()
    page.click("#list-problem button")
    page.wait_for_selector("#list .like")
    assert not page.locator("#list-problem").is_visible()


def test_page_tries_again_after_the_time_of_the_service(pages, event_url: str) -> None:
    refused = []

    def refuse(route) -> None:
        refused.append(route)
        answer(429, OVERLOADED, **{"Retry-After": "1"})(route)

    page = pages.open(
        f"{event_url}/#user3",
        loaded="#list-problem:visible",
        before=lambda page: page.route("**/v1/recommendations", refuse, times=2),
    )
    assert OVERLOADED in page.inner_text("#list-problem")
    assert "1 s" in page.inner_text("#list-problem button")
    page.wait_for_selector("#list .like")  # without a click
    assert len(refused) == 2
    assert not page.locator("#list-problem").is_visible()


@pytest.mark.parametrize("pattern", ["**/v1/run", "**/preference"])
def test_unreachable_service_leaves_no_empty_page(pages, event_url: str, pattern: str) -> None:
    page = pages.open(
        f"{event_url}/#user3",
        loaded="#problem:visible",
        before=lambda page: page.route(pattern, lambda route: route.abort()),
    )
    assert "The service cannot be reached." in page.inner_text("#problem")
    assert not page.locator("#lists").is_visible()
    page.unroute_all()
    page.click("#problem button")
    page.wait_for_selector("#list .like")
    assert page.locator("#history li").count() > 0


def test_failed_like_is_taken_back_and_stored_once(pages, event_url: str) -> None:
    page = pages.open(f"{event_url}/#user9")
    n_items, title = page.locator("#history li").count(), titles(page)[1]
    sent = []

    def lose_response(route) -> None:
        sent.append(route.request.post_data_json["events"][0]["event_id"])
        route.fetch()  # the service stores the event
        route.abort()

    page.route("**/v1/events", lose_response, times=1)
    page.click("#list li:nth-child(2) .like")
    page.wait_for_selector("#list li:nth-child(2) .problem:visible")
    assert "Not stored." in page.inner_text("#list li:nth-child(2) .problem")
    assert page.locator("#history li").count() == n_items
    with page.expect_request("**/v1/events") as again:
        page.click("#list li:nth-child(2) .problem button")
    page.wait_for_selector('#status:has-text("in the list")')
    assert again.value.post_data_json["events"][0]["event_id"] == sent[0]
    assert page.locator("#history li").count() == n_items + 1
    assert page.locator("#history .title").last.inner_text() == title


def test_failed_undo_is_reported_and_repeated(pages, event_url: str) -> None:
    page = pages.open(f"{event_url}/#user11")
    page.click("#list li:first-child .dislike")
    page.wait_for_selector("#hidden:visible")
    page.route("**/v1/events?*", answer(503, "The disk is full.", **{"Retry-After": "60"}))
    page.click("#undo")
    page.wait_for_selector('#list-problem:has-text("The disk is full.")')
    assert page.locator("#hidden").is_visible()
    page.unroute_all()
    page.click("#list-problem button")
    page.wait_for_selector("#hidden", state="hidden")


def test_list_without_the_slow_model_is_requested_again_on_a_click(pages, event_url: str) -> None:
    page = pages.open(
        f"{event_url}/#user4",
        loaded="#reason:visible",
        before=lambda page: page.route("**/v1/recommendations", unranked),
    )
    assert "did not respond in time" in page.inner_text("#reason")
    page.unroute_all(behavior="wait")
    page.click("#reason button")
    page.wait_for_selector("#reason", state="hidden")
    page.wait_for_selector('#list :text("match 0.")')
    page.route("**/v1/recommendations", slow_zero_shot)
    page.select_option("#compare", "zero_shot")  # the other of two lists
    page.wait_for_selector('#reason:has-text("Zero-shot: The model did not respond in time.")')
    assert pages.errors == []


def test_list_of_a_slow_model_is_not_compared_with_the_next_one(pages, event_url: str) -> None:
    def not_updated_yet(route) -> None:
        response = route.fetch()
        body = response.json()
        body["preference_history"].pop()
        route.fulfill(response=response, json=body)

    held = []

    def slow_at_first(page) -> None:
        page.route("**/preference", not_updated_yet, times=1)
        page.route("**/v1/recommendations", lambda route: held.append(route), times=1)  # noqa: PLW0108
        page.route("**/v1/recommendations", unranked, times=1)

    page = pages.open(f"{event_url}/#user4", loaded="#reason:visible", before=slow_at_first)
    while not held:
        page.wait_for_timeout(10)
    held.pop().continue_()
    page.wait_for_selector('#list :text("match 0.")')  # the update has changed the list
    assert page.locator("#list .mark").count() == 0
    page.wait_for_timeout(1000)  # the history scrolls smoothly
    assert page.locator("#history .block").last.evaluate(
        "tile => tile.getBoundingClientRect().right"
        " <= document.getElementById('history').getBoundingClientRect().right"
    )
    assert pages.errors == []
