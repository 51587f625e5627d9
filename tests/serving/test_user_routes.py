"""Tests for the routes of users: dislikes, undoing events, updates on request, similar ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.testclient import TestClient

Serve = Callable[..., TestClient]


def send(web: TestClient, event_id: str, item_id: str, **fields: Any) -> str:
    event = {"event_id": event_id, "user_id": "user3", "item_id": item_id, **fields}
    return web.post("/v1/events", json={"events": [event]}).json()["events"][0]["status"]


def undo(web: TestClient, event_id: str, user_id: str = "user3") -> Any:
    return web.delete("/v1/events", params={"user_id": user_id, "event_id": event_id})


def preference(web: TestClient) -> Any:
    found = web.get("/v1/users/user3/preference").json()
    while found["updating"]:
        found = web.get("/v1/users/user3/preference").json()
    return found


def listed(web: TestClient, **fields: Any) -> list[str]:
    body = {"user_id": "user3", "k": 30, "budget": 0, **fields}
    return [one["item_id"] for one in web.post("/v1/recommendations", json=body).json()["items"]]


def test_disliked_item_is_in_no_list_until_the_dislike_is_undone(serve: Serve) -> None:
    web = serve()
    before, history = listed(web), preference(web)["history"]
    item_id = before[0]
    assert send(web, "no", item_id, type="dislike") == "accepted"
    assert listed(web) == before[1:]
    assert item_id not in listed(web, exclude_seen=False)
    assert listed(web, candidate_ids=before[:2]) == before[1:2]
    found = preference(web)
    assert (found["history"], found["dislikes"]) == (history, [item_id])
    assert found["events"] == [{"event_id": "no", "item_id": item_id, "type": "dislike"}]
    assert undo(web, "no").json() == {"event_id": "no", "status": "removed"}
    assert (listed(web), preference(web)["dislikes"]) == (before, [])


def test_liking_a_disliked_item_lifts_the_dislike(serve: Serve) -> None:
    web = serve()
    item_id = listed(web)[0]
    send(web, "no", item_id, type="dislike")
    send(web, "yes", item_id)
    assert preference(web)["dislikes"] == []
    assert item_id in listed(web, exclude_seen=False)
    assert undo(web, "yes").json()["status"] == "removed"
    assert preference(web)["dislikes"] == [item_id]


def test_undone_like_leaves_neither_history_nor_preference(serve: Serve) -> None:
    web = serve("serve.update=event")
    before = preference(web)
    send(web, "like", listed(web)[0])
    after = preference(web)
    assert after["n_items"] == len(after["history"]) == len(before["history"]) + 1
    assert undo(web, "like").json()["status"] == "removed"
    found = preference(web)
    assert found["history"] == before["history"]
    assert found["n_items"] <= len(before["history"])
    # Sent again, by a client that did not get the response.
    assert undo(web, "like").json()["status"] == "already_removed"
    assert send(web, "like", "item1") == "duplicate"
    assert preference(web)["history"] == before["history"]


def test_events_of_others_and_unknown_events_cannot_be_undone(serve: Serve) -> None:
    web = serve()
    send(web, "mine", "item1")
    for event_id, user_id in (("mine", "user4"), ("unknown", "user3")):
        answer = undo(web, event_id, user_id)
        assert answer.status_code == 404
        assert f"The user '{user_id}' has no event '{event_id}'." in answer.json()["detail"]
    assert [one["event_id"] for one in preference(web)["events"]] == ["mine"]
    assert web.delete("/v1/events", params={"user_id": "user3"}).status_code == 422


def test_user_whose_only_event_is_undone_is_unknown(serve: Serve) -> None:
    web = serve()
    event = {"event_id": "1", "user_id": "newcomer", "item_id": "item1"}
    web.post("/v1/events", json={"events": [event]})
    assert web.get("/v1/users", params={"contains": "newc"}).json()["total"] == 1
    undo(web, "1", "newcomer")
    assert web.get("/v1/users", params={"contains": "newc"}).json()["total"] == 0
    assert web.get("/v1/users/newcomer/preference").status_code == 404


def test_update_on_request_does_not_wait_for_a_block(serve: Serve) -> None:
    web = serve("serve.update=block")
    listed(web)  # starts the update of complete blocks
    found = preference(web)
    for n in range(found["next_update"] - 1):
        send(web, str(n), f"item{n}")
    waiting = preference(web)
    assert (waiting["next_update"], waiting["n_items"]) == (1, found["n_items"])
    answer = web.post("/v1/users/user3/preference")
    assert (answer.status_code, answer.json()["updating"]) == (202, True)
    updated = preference(web)
    assert updated["n_items"] == len(updated["history"])
    assert web.post("/v1/users/user3/preference").json()["updating"] is False
    assert web.post("/v1/users/nobody/preference").status_code == 404


def test_similar_ids_are_suggested_only_if_none_contains_the_text(serve: Serve) -> None:
    web = serve()
    found = web.get("/v1/users", params={"contains": "usre1"}).json()
    assert (found["total"], found["users"]) == (0, [])
    assert found["similar"][0] in {"user1", "user10", "user11"}
    assert web.get("/v1/users", params={"contains": "user1"}).json()["similar"] == []
