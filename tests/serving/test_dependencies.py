"""Tests for ids in paths, other origins, and the errors that routes describe."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from starlette.testclient import TestClient

from mllm_msr.serving.dependencies import error_responses

Serve = Callable[..., TestClient]


def test_every_valid_user_id_works_in_paths(serve: Serve) -> None:
    web = serve()
    for user_id in ("a/b", "a/preference", "50%", "a b?c#d", "\U0001f600", "a\\b"):
        event = {"event_id": user_id, "user_id": user_id, "item_id": "item1"}
        assert web.post("/v1/events", json={"events": [event]}).status_code == 202
        path = f"/v1/users/{quote(user_id, safe='')}"
        found = web.get(f"{path}/preference")
        assert (found.status_code, found.json().get("user_id")) == (200, user_id)
        deleted = web.delete(path)
        assert (deleted.json()["user_id"], deleted.json()["events"]) == (user_id, 1)
        assert web.get(f"{path}/preference").status_code == 404


def test_item_id_may_contain_a_slash(serve: Serve, images: Sequence[Path]) -> None:
    web = serve()
    image = base64.b64encode(images[0].read_bytes()).decode()
    body = {"item_id": "films/new", "title": "Thing 7", "image": image}
    assert web.post("/v1/items", json=body).status_code == 201
    shown = web.get("/v1/items/films%2Fnew/image")
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/jpeg")


def test_invalid_ids_in_paths_are_rejected(serve: Serve) -> None:
    web = serve()
    for user_id in ("u" * 201, "a%00b", "a%1Fb", "a%7Fb"):
        path = f"/v1/users/{user_id}"
        for answer in (web.get(f"{path}/preference"), web.delete(path)):
            assert answer.status_code == 422
            assert answer.json()["detail"].startswith("user_id must ")
    assert web.delete("/v1/users/a%0Ab").status_code == 404


def test_pages_of_other_origins_cannot_send_events(serve: Serve) -> None:
    """Send bodies of the types that a browser sends to other origins without a preflight."""
    web = serve()
    content = b'{"events": [{"event_id": "1", "user_id": "newcomer", "item_id": "item1"}]}'
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data"}):
        assert web.post("/v1/events", content=content, headers=headers).status_code == 422
    assert web.get("/v1/users/newcomer/preference").status_code == 404


def test_routes_describe_the_common_errors_and_their_own() -> None:
    assert set(error_responses(404)) - set(error_responses()) == {404}
    assert {401, 413, 422, 503} <= set(error_responses())
