"""What the page asks for: files, users, items, images by id alone, models."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from mllm_msr.recommend.recommender import MllmMsr
from online_worlds import MoodyBackend

Serve = Callable[..., TestClient]


def users(web: TestClient, contains: str = "", **query: int) -> tuple[list[str], int]:
    found = web.get("/v1/users", params={"contains": contains, **query}).json()
    return found["users"], found["total"]


def test_the_page_comes_from_here_alone(serve: Serve) -> None:
    web = serve(key="secret")
    page = web.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for path in ("/page/page.css", "/page/page.js", "/page/icon.svg"):
        assert f'"{path}"' in page.text
        assert web.get(path).status_code == 200
    assert "://" not in page.text
    assert "<script>" not in page.text
    assert "style=" not in page.text
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "object-src 'none'" in policy
    assert web.get("/page/../app.py").status_code in {401, 404}
    assert web.get("/page/index.html", headers={"X-API-Key": "secret"}).status_code == 404


def test_users_are_found_by_a_part_of_their_id(serve: Serve) -> None:
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


def test_items_are_told_in_the_order_asked(serve: Serve) -> None:
    web = serve()
    asked = {"item_id": ["item3", "?", "item2", "item3"]}
    found = web.get("/v1/items", params=asked).json()["items"]
    assert [(one["item_id"], one["title"], one["image"]) for one in found] == [
        ("item3", "Thing 3", False), ("item2", "Thing 2", True),
    ]  # fmt: skip
    assert found[1]["summary"] == "A thing that is a plain square."
    many = {"item_id": [str(n) for n in range(101)]}
    assert web.get("/v1/items", params=many).status_code == 422
    assert web.get("/v1/items").status_code == 422


def test_a_image_is_written_anew_and_kept_by_the_browser(serve: Serve) -> None:
    web = serve()
    answer = web.get("/v1/items/item2/image")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "private, max-age=3600"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("JPEG", (16, 16))
    tag = {"If-None-Match": answer.headers["etag"]}
    again = web.get("/v1/items/item2/image", headers=tag)
    assert (again.status_code, again.content) == (304, b"")


def test_large_images_become_small_and_broken_ones_stay_here(serve: Serve, run: Path) -> None:
    web = serve()
    path = web.app.state.engine.catalogue.item("item4").image
    kept = path.read_bytes()
    try:
        Image.new("RGB", (1400, 700), "red").save(path, format="PNG")
        with Image.open(io.BytesIO(web.get("/v1/items/item4/image").content)) as image:
            assert image.size == (320, 160)
        path.write_bytes(b"<html><script>alert(1)</script></html>")
        broken = web.get("/v1/items/item4/image")
        assert broken.status_code == 422
        assert "<script>" not in broken.text
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize(
    "item_id", ["item3", "nothing", "..%2F..%2Fconfig.yaml", "%2Fetc%2Fpasswd", "images/item2.png"]
)
def test_only_images_of_items_are_opened(serve: Serve, item_id: str) -> None:
    answer = serve().get(f"/v1/items/{item_id}/image")
    assert answer.status_code == 404
    assert "image" not in answer.headers["content-type"]


def test_models_that_can_be_compared(
    serve: Serve, scorer: MoodyBackend, writer: MoodyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"user_id": "user3", "k": 2, "budget": 2, "model": "untuned"}
    web = serve()
    only = web.get("/v1/models").json()["models"]
    assert [(one["name"], one["fine_tuned"]) for one in only] == [("run", False)]
    # Without fine-tuning there is one model, under both names.
    assert web.post("/v1/recommendations", json=asked).json()["model_version"] == only[0]["version"]

    monkeypatch.setattr(MllmMsr, "trained", True)
    web = serve()
    both = web.get("/v1/models").json()["models"]
    assert [(one["name"], one["fine_tuned"]) for one in both] == [
        ("run", True), ("untuned", False),
    ]  # fmt: skip
    scorer.batches.clear()
    writer.batches.clear()
    assert web.post("/v1/recommendations", json=asked).json()["items"][0]["score"] is not None
    # The other model may be warming up, with one prompt at a time.
    assert (2 in scorer.batches, 2 in writer.batches) == (False, True)

    monkeypatch.setattr(MllmMsr, "writes_untuned", False)
    refused = serve().post("/v1/recommendations", json=asked)
    assert refused.status_code == 404
    assert "/v1/models" in refused.json()["detail"]


def test_it_is_said_while_a_preference_is_being_written(serve: Serve, writer: MoodyBackend) -> None:
    web = serve("serve.update=event")
    writer.gate.clear()
    event = {"event_id": "1", "user_id": "user3", "item_id": "item1"}
    web.post("/v1/events", json={"events": [event]})
    assert web.get("/v1/users/user3/preference").json()["updating"] is True
    writer.gate.set()
    while web.get("/v1/users/user3/preference").json()["updating"]:
        pass
    found = web.get("/v1/users/user3/preference").json()
    assert found["n_items"] == len(found["history"])
