"""Types of request fields: what is accepted, and with which message the rest is rejected."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from mllm_msr.serving import request_types


@pytest.mark.parametrize(
    ("kind", "value", "accepted"),
    [
        (request_types.Number, 5.0, 5),
        (request_types.Time, 1_700_000_000_000, 1_700_000_000_000),
        (request_types.Id, "a b", "a b"),
        (request_types.Title, "Amélie", "Amélie"),
        (request_types.Images, "aGVs\nbG8=", (b"hello",)),
        (request_types.Images, ["aGVs\nbG8=", "YQ=="], (b"hello", b"a")),
    ],
)
def test_valid_values_are_accepted(kind: Any, value: object, accepted: object) -> None:
    assert TypeAdapter(kind).validate_python(value) == accepted


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        *((request_types.Number, value, "valid integer") for value in (True, "5", 5.5)),
        (request_types.Time, 1_700_000_000, "seconds"),
        (request_types.Id, " a", "white space"),
        (request_types.Id, "a\x85", "pattern"),
        (request_types.Text, "é" * 10_000 + "\0", "at most 10000|pattern"),
        (request_types.Text, "\U0001f600" * 9_000, "36,000 bytes in UTF-8; the limit is 20,000"),
        (request_types.Images, "", "empty"),
        (request_types.Images, ["YQ==", "!"], "base64"),
    ],
)
def test_other_values_are_rejected(kind: Any, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(kind).validate_python(value)
