"""Tests for the limits of request bodies and the two kinds of list requests."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from mllm_msr.serving import schemas

LIST_REQUEST: TypeAdapter[Any] = TypeAdapter(schemas.ListRequest)


def test_kind_of_list_request_depends_on_the_field() -> None:
    assert isinstance(LIST_REQUEST.validate_python({"user_id": "u"}), schemas.UserListRequest)
    request = LIST_REQUEST.validate_python({"history": ["item1"], "budget": 0})
    assert isinstance(request, schemas.HistoryListRequest)
    assert (request.k, request.budget, request.model) == (10, 0, "run")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user_id": "u", "history": ["item1"]},
        {"user_id": "u", "k": 101},
        {"user_id": "u", "model": ""},
        {"history": []},
    ],
)
def test_invalid_list_requests_are_rejected(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LIST_REQUEST.validate_python(body)


@pytest.mark.parametrize("user_id", ["", "u" * 201, "a\x00b", "a\nb", "a\x7fb"])
def test_ids_have_a_length_and_no_control_characters(user_id: str) -> None:
    with pytest.raises(ValidationError, match="user_id"):
        schemas.UserListRequest(user_id=user_id)


@pytest.mark.parametrize("user_id", [" ", " u1", "u1\u2003"])
def test_ids_have_no_white_space_around_them(user_id: str) -> None:
    with pytest.raises(ValidationError, match="begins or ends with white space"):
        schemas.UserListRequest(user_id=user_id)
    assert schemas.UserListRequest(user_id="u 1").user_id == "u 1"


def test_image_is_decoded_from_base64() -> None:
    item = schemas.NewItem(item_id="i", title="T", image="aW1hZ2U=")  # type: ignore[arg-type]
    assert item.image == (b"image",)
    item = schemas.NewItem(item_id="i", title="T", image=["aW1hZ2U=", "aQ=="])  # type: ignore[arg-type]
    assert item.image == (b"image", b"i")
    for absent in ({}, {"image": None}, {"image": []}):
        assert schemas.NewItem(item_id="i", title="T", **absent).image == ()  # type: ignore[arg-type]
