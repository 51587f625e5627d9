"""Tests for rejected requests: invalid bodies, images, items and times, and their explanations."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from online_worlds import ask, event, send

Serve = Callable[..., TestClient]


def test_unknown_items_of_a_history_are_named(serve: Serve) -> None:
    web = serve()
    history = ["item1", "zzz", "yyy", "zzz"]
    answer = web.post("/v1/recommendations", json={"history": history})
    assert answer.status_code == 404
    assert answer.json()["detail"] == (
        "2 items are not in the catalog: 'zzz', 'yyy'. Correct the ids or leave these items out."
    )


def test_implausible_times_are_rejected_with_the_likely_unit(serve: Serve) -> None:
    web = serve()
    seconds = {**event("1", "item1"), "timestamp": 1_700_000_000}
    answer = web.post("/v1/events", json={"events": [event("0", "item1"), seconds]})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(
        "events.1.timestamp: 1700000000 is not a time between 1970 and 2200 in milliseconds. It "
        "looks like seconds since 1970; convert it to milliseconds"
    )
    assert web.get("/v1/users/newcomer/preference").status_code == 404
    assert send(web, {**event("1", "item1"), "timestamp": 1_700_000_000_000}) == ["accepted"]


@pytest.mark.parametrize(
    "content", [b"", b"<svg/>", b"https://example.org/a.png", b"/etc/passwd", b"\x89PNG\r\n\x1a\n"]
)
def test_content_that_is_not_an_image_is_rejected(serve: Serve, content: bytes) -> None:
    body = {"item_id": "x", "title": "X", "image": base64.b64encode(content).decode()}
    answer = serve().post("/v1/items", json=body)
    assert answer.status_code == 422
    assert "image" in answer.json()["detail"]


def test_unusable_images_are_rejected_with_a_reason(serve: Serve) -> None:
    web = serve("serve.max_pixels=5000", "serve.max_item_body=10000")
    tiff, large = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (9, 9)).save(tiff, format="TIFF")
    Image.new("RGB", (100, 51)).save(large, format="PNG")
    png = base64.b64encode(large.getvalue()).decode()
    for image, status, reason in (
        ("!!!", 422, "the image is not in base64. Encode the content of a JPEG"),
        (f"data:image/png;base64,{png}", 422, "the image is not in base64"),
        (png[:-1], 422, "the image is not in base64"),
        ("", 422, "the image is empty. Leave the field out"),
        (17, 422, "image: the image is not a string. Send its content in base64."),
        ([17], 422, "image: the image is not a string"),
        ([png, "!!!"], 422, "image: the image is not in base64"),
        (base64.b64encode(tiff.getvalue()).decode(), 422, "is not a JPEG, PNG, WEBP or GIF image"),
        (png, 422, "has 100 x 51 pixels; the limit is 5,000"),
        (base64.b64encode(large.getvalue()[:60]).decode(), 422, "image"),
        ("A" * 10_000, 413, "larger than 10,000 bytes"),
    ):
        answer = web.post("/v1/items", json={"item_id": "x", "title": "X", "image": image})
        assert (answer.status_code, reason in answer.json()["detail"]) == (status, True), (
            image, answer.text,
        )  # fmt: skip
    assert web.get("/v1/items", params={"item_id": "x"}).json()["items"] == []


def test_size_of_an_item_is_limited_in_bytes(serve: Serve) -> None:
    web = serve()
    long = {"item_id": "x", "title": "\U0001f600" * 500, "text": "\U0001f600" * 10_000}
    answer = web.post("/v1/items", json=long)
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert "text has 40,000 bytes in UTF-8; the limit is 20,000. Shorten it." in detail
    assert web.post("/v1/items", json={**long, "title": "<b></b>", "text": ""}).status_code == 422
    assert web.post("/v1/items", json={**long, "title": "\u8336", "text": ""}).status_code == 201


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("events", {"events": []}),
        ("events", {"events": [event("1", "")]}),
        ("events", {"events": [event("1", "a\x00b")]}),
        ("events", {"events": [{**event("1", "a"), "timestamp": -1}]}),
        ("events", {"events": [event("1", "a")] * 1001}),
        ("recommendations", {}),
        ("recommendations", {"user_id": "u", "history": ["item1"]}),
        ("recommendations", {"user_id": "u", "k": 0}),
        ("recommendations", {"user_id": "u", "k": 10**9}),
        ("recommendations", {"user_id": "u", "sql": "1"}),
        ("recommendations", {"history": ["x"] * 201}),
        ("scores", {"user_id": "u" * 201, "item_ids": ["a"]}),
        ("scores", {"user_id": "u", "item_ids": "item1"}),
        ("items", {"item_id": "i", "title": ""}),
        ("items", {"item_id": "i", "title": "t", "image": "not base64!"}),
        ("items", {"item_id": "i", "title": "t", "image": "https://example.org/a.png"}),
    ],
)
def test_malformed_bodies_get_a_short_message(
    serve: Serve, route: str, body: dict[str, Any]
) -> None:
    answer = serve().post(f"/v1/{route}", json=body)
    assert answer.status_code == 422
    assert set(answer.json()) == {"detail"}
    assert len(answer.content) < 10_000


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"user_id": "u", "k": 0}, "k must be greater than or equal to 1."),
        ({"history": ["item1"], "k": 0}, "k must be greater than or equal to 1."),
        ({}, "user_id is missing."),
        ({"user": "u0000"}, "user_id is missing. Unknown field user."),
        ([], "The body must be a JSON object, with the header Content-Type: application/json."),
        ({"user_id": "u", "history": ["item1"]}, "Unknown field user_id."),
        *(
            ({"user_id": "u", "k": value}, "k must be a valid integer.")
            for value in ("many", "5", True)
        ),
        ({"user_id": "u", "explain": 1}, "explain must be a valid boolean."),
        ({"user_id": "u", "model": 1}, "model must be a valid string."),
    ],
)
def test_validation_errors_name_fields_and_no_classes(
    serve: Serve, body: object, detail: str
) -> None:
    answer = serve().post("/v1/recommendations", json=body)
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)


def test_paths_without_a_route_are_explained(serve: Serve) -> None:
    web = serve()
    for method, path in (("GET", "/v2/users"), ("PUT", "/v1/events"), ("POST", "/healthz")):
        answer = web.request(method, path)
        assert answer.status_code in {404, 405}
        assert answer.json() == {"detail": f"There is no {method} '{path}'. See /docs."}
    text = web.post("/v1/events", content=b"{", headers={"Content-Type": "application/json"})
    assert text.status_code == 422
    assert text.json()["detail"].startswith("The body is not valid JSON (Expecting property name")


def test_bodies_with_many_values_are_rejected_at_once(serve: Serve) -> None:
    web = serve("serve.max_body=10000000")
    unknown = {f"key{n}": n for n in range(60_000)}
    answer = web.post("/v1/events", json=unknown)
    assert answer.status_code == 413
    assert "more than 100,000 JSON values" in answer.json()["detail"]
    answer = web.post("/v1/events", json=dict(list(unknown.items())[:40_000]))
    assert (answer.status_code, answer.json()["detail"]) == (
        422, "The body: 40,000 fields are more than the 1 known ones: events.",
    )  # fmt: skip
    wrong = {"events": [{"event_id": "", "user_id": "", "item_id": ""}] * 900}
    answer = web.post("/v1/events", json=wrong)
    assert answer.status_code == 422
    assert len(answer.content) < 300


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"null", b"\xff\xfe", b'{"a\\ud800": 1}', b"[" * 100_000, b'{"events": NaN}'],
)
def test_hostile_bodies_are_rejected(serve: Serve, content: bytes) -> None:
    web = serve()
    answer = web.post("/v1/events", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}
    assert web.get("/healthz").json() == {"status": "ok"}


def test_hostile_ids_are_ordinary_ids(serve: Serve) -> None:
    web = serve()
    for user in ("'; DROP TABLE events; --", "../../etc/passwd", "<script>", "\U0001f600"):
        assert send(web, event(f"e{user}", "item1", user)) == ["accepted"]
        assert ask(web, user_id=user, k=1)["items"]
    assert web.get("/v1/users/%3Cscript%3E/preference").json()["user_id"] == "<script>"
    assert web.post("/v1/events", content=b"{}").status_code == 422
