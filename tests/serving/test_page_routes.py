"""Tests for the routes of the page: files, users, items, images, models."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from mllm_msr.recommend.run_models import RunModels
from online_worlds import FakeBackend

Serve = Callable[..., TestClient]


def users(web: TestClient, contains: str = "", **query: int) -> tuple[list[str], int]:
    found = web.get("/v1/users", params={"contains": contains, **query}).json()
    return found["users"], found["total"]


def test_page_loads_nothing_from_other_servers(serve: Serve) -> None:
    web = serve(key="secret")
    page = web.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "://" not in page.text
    assert "<script>" not in page.text
    assert "style=" not in page.text
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "object-src 'none'" in policy
    # All files that the page and its modules name are served without a key.
    named, loaded = set(re.findall(r'"(/page/[^"]+)"', page.text)), set()
    while missing := named - loaded:
        for path in missing:
            answer = web.get(path)
            assert answer.status_code == 200, path
            loaded.add(path)
            if path.endswith(".js"):
                named |= set(re.findall(r'from "([^"]+)"', answer.text))
    assert loaded >= {"/page/tokens.css", "/page/page.css", "/page/page.js", "/page/lists.js"}
    assert web.get("/page/../app.py").status_code in {401, 404}
    for name in ("index.html", "docs.html.jinja", "nothing.js"):
        assert web.get(f"/page/{name}").status_code == 404


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/docs", "/healthz", "/readyz"])
def test_head_has_the_headers_of_get(serve: Serve, path: str) -> None:
    web = serve()
    head, get = web.head(path), web.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_report_is_opened_without_access_to_the_service(serve: Serve, scored_run: Path) -> None:
    web = serve(folder=scored_run)
    assert web.get("/report").status_code == 404
    assert web.get("/v1/run").json()["report"] is False
    (scored_run / "report.html").write_text("<title>Report</title>")
    try:
        answer = web.get("/report")
        assert answer.text == "<title>Report</title>"
        policy = answer.headers["content-security-policy"]
        assert "sandbox allow-scripts" in policy
        assert "allow-same-origin" not in policy
        assert web.get("/v1/run").json()["report"] is True
    finally:
        (scored_run / "report.html").unlink()


def test_run_is_described(serve: Serve) -> None:
    found = serve("serve.update=event").get("/v1/run").json()
    assert (found["name"], found["dataset"], found["model"]) == ("run", "files", "mock")
    assert (found["items"], found["update"]) == (30, "event")
    assert (found["preferences"], found["history_items"]) == (True, 0)


def test_service_of_a_run_that_reads_histories_writes_no_preferences(
    serve: Serve,
    ranker: FakeBackend,
    preference_model: FakeBackend,
) -> None:
    web = serve("recommend.reads=history", "recommend.history_items=3", "infer.enabled=false")
    run = web.get("/v1/run").json()
    assert (run["preferences"], run["history_items"]) == (False, 3)
    event = {"event_id": "1", "user_id": "user1", "item_id": "item1"}
    for user in ("user1", "newcomer"):
        web.post("/v1/events", json={"events": [{**event, "event_id": user, "user_id": user}]})
        found = web.post("/v1/recommendations", json={"user_id": user, "k": 3}).json()
        assert (found["fallback_reason"], found["preference"]) == (None, "")
        assert all(item["score"] is not None for item in found["items"])
    given = {"history": ["item1", "item2"], "k": 2}
    assert web.post("/v1/recommendations", json=given).json()["fallback_reason"] is None
    assert not web.post("/v1/users/user1/preference").json()["updating"]
    found = web.get("/v1/users/user1/preference").json()
    assert (found["next_update"], found["preference"], found["updating"]) == (None, "", False)
    assert ranker.batches
    assert preference_model.batches == []


def test_users_are_found_by_part_of_their_id(serve: Serve) -> None:
    web = serve()
    everyone, total = users(web)
    assert (len(everyone), total) == (12, 12)
    assert users(web, "SER1") == (["user1", "user10", "user11"], 3)
    assert users(web, "ser1", limit=1) == (["user1"], 3)
    event = {"event_id": "1", "user_id": "newcomer", "item_id": "item1"}
    web.post("/v1/events", json={"events": [event]})
    assert users(web, "new") == (["newcomer"], 1)
    web.delete("/v1/users/user1")
    web.delete("/v1/users/newcomer")
    assert users(web, "user1") == (["user10", "user11"], 2)
    assert users(web, "new") == ([], 0)
    web.post("/v1/events", json={"events": [{**event, "event_id": "2", "user_id": "user1"}]})
    assert users(web, "user1")[1] == 3


def test_items_are_returned_in_the_order_of_the_request(serve: Serve) -> None:
    web = serve()
    body = {"item_id": ["item3", "?", "item2", "item3"]}
    found = web.get("/v1/items", params=body).json()["items"]
    assert [(one["item_id"], one["title"], one["image"]) for one in found] == [
        ("item3", "Thing 3", False), ("item2", "Thing 2", True),
    ]  # fmt: skip
    assert found[1]["summary"] == "A thing that is a plain square."
    assert [one["text"] for one in found] == [None, None]
    found = web.get("/v1/items", params={**body, "text": True}).json()["items"]
    assert found[0]["text"] == web.app.state.engine.catalog.item("item3").text
    many = {"item_id": [str(n) for n in range(101)]}
    assert web.get("/v1/items", params=many).status_code == 422
    assert web.get("/v1/items").status_code == 422


def test_image_is_encoded_again_and_cached_by_the_browser(serve: Serve) -> None:
    web = serve()
    answer = web.get("/v1/items/item2/image")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "private, max-age=3600"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("JPEG", (16, 16))
    tag = {"If-None-Match": answer.headers["etag"]}
    again = web.get("/v1/items/item2/image", headers=tag)
    assert (again.status_code, again.content) == (304, b"")


def test_image_that_was_changed_is_not_displayed(serve: Serve) -> None:
    web = serve()
    path = web.app.state.engine.catalog.item("item4").image
    original = path.read_bytes()
    try:
        path.write_bytes(b"<html><script>alert(1)</script></html>")
        broken = web.get("/v1/items/item4/image")
        assert broken.status_code in {404, 422}  # 404 if the change is noticed before
        assert "<script>" not in broken.text
        assert str(path.parent) not in broken.text
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize(
    "item_id", ["item3", "nothing", "..%2F..%2Fconfig.yaml", "%2Fetc%2Fpasswd", "images/item2.png"]
)
def test_only_images_of_items_are_opened(serve: Serve, item_id: str) -> None:
    answer = serve().get(f"/v1/items/{item_id}/image")
    assert answer.status_code == 404
    assert "image" not in answer.headers["content-type"]


def test_models_that_can_be_compared(
    serve: Serve,
    ranker: FakeBackend,
    preference_model: FakeBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = {"user_id": "user3", "k": 2, "budget": 2, "model": "zero_shot"}
    web = serve()
    only = web.get("/v1/models").json()["models"]
    assert [(one["name"], one["fine_tuned"]) for one in only] == [("run", False)]
    # Without fine-tuning both names mean the same model.
    assert web.post("/v1/recommendations", json=body).json()["model_version"] == only[0]["version"]

    monkeypatch.setattr(RunModels, "fine_tuned", True)
    web = serve()
    both = web.get("/v1/models").json()["models"]
    assert [(one["name"], one["fine_tuned"]) for one in both] == [
        ("run", True), ("zero_shot", False),
    ]  # fmt: skip
    ranker.batches.clear()
    preference_model.batches.clear()
    assert web.post("/v1/recommendations", json=body).json()["items"][0]["score"] is not None
    # The ranker may be warming up, with one prompt.
    assert (2 in ranker.batches, 2 in preference_model.batches) == (False, True)

    monkeypatch.setattr(RunModels, "has_zero_shot", False)
    rejected = serve().post("/v1/recommendations", json=body)
    assert rejected.status_code == 404
    assert "/v1/models" in rejected.json()["detail"]


def test_response_states_that_a_preference_is_being_updated(
    serve: Serve, preference_model: FakeBackend
) -> None:
    web = serve("serve.update=event")
    preference_model.gate.clear()
    event = {"event_id": "1", "user_id": "user3", "item_id": "item1"}
    web.post("/v1/events", json={"events": [event]})
    assert web.get("/v1/users/user3/preference").json()["updating"] is True
    preference_model.gate.set()
    while web.get("/v1/users/user3/preference").json()["updating"]:
        pass
    found = web.get("/v1/users/user3/preference").json()
    assert found["n_items"] == len(found["history"])
