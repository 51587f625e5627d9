"""Tests for the sentences about invalid requests, and the limit on values."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from mllm_msr.serving import schemas
from mllm_msr.serving.validation import describe_problems

NOT_BASE64 = "the image is not in base64. Encode the content of a JPEG, PNG, WebP or GIF file."


def describe(model: Any, body: object) -> str:
    """Return the description of the problems of a body."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(model).validate_python(body)
    errors = caught.value.errors()
    return describe_problems({**one, "loc": ("body", *one["loc"])} for one in errors)


@pytest.mark.parametrize(
    ("model", "body", "expected"),
    [
        (schemas.ListRequest, {"user": "u0000"}, "user_id is missing. Unknown field user."),
        (schemas.ListRequest, {"user_id": ""}, "user_id must have at least 1 characters."),
        (schemas.ListRequest, {"user_id": "u" * 201}, "user_id must have at most 200 characters."),
        (schemas.ListRequest, {"user_id": "a\nb"}, "user_id must not contain control characters."),
        (schemas.ListRequest, {"user_id": 3}, "user_id must be a valid string."),
        (schemas.ListRequest, {"history": []}, "history must have at least 1 elements."),
        (schemas.ListRequest, {"history": "v1"}, "history must be a valid list."),
        (schemas.ScoresRequest, {"user_id": "u", "item_ids": ["a", 1, 2]},
         "item_ids.1 must be a valid string."),
        (schemas.ScoresRequest, [],
         "The body must be a JSON object, with the header Content-Type: application/json."),
        (schemas.EventsRequest, {"events": ["e1"]}, "events.0 must be a JSON object."),
        (schemas.NewItem, {"item_id": "a", "title": "t", "image": "!"},
         f"image: {NOT_BASE64}"),
        (schemas.NewItem, {}, "item_id is missing. title is missing."),
    ],
)  # fmt: skip
def test_every_problem_is_one_sentence(model: Any, body: object, expected: str) -> None:
    assert describe(model, body) == expected


def test_number_and_length_of_sentences_are_limited() -> None:
    problems = [
        {"type": "missing", "loc": ("body", f"{n}" + "x" * 10_000), "msg": ""} for n in range(9)
    ]
    text = describe_problems(problems)
    assert text.endswith("is missing. There are 4 more problems.")
    assert len(text) < 500


def test_name_of_a_field_is_not_a_template() -> None:
    problem = {"type": "extra_forbidden", "loc": ("body", "{name}{0}"), "msg": ""}
    assert describe_problems([problem]) == "Unknown field {name}{0}."
