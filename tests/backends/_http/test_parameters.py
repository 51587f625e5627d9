"""Tests of request parameters: adapted to the rejections of an endpoint."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from mllm_msr.backends._http.parameters import RequestParameters
from mllm_msr.backends._http.responses import RequestRejectedError

FIELDS = {"max_tokens": 1, "temperature": 0, "model": "tiny"}
OTHER_LENGTH = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens'."
TEMPERATURE = "Unsupported value: 'temperature' does not support 0 with this model."
MINIMUM = (
    "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 1."
)


def adapt(parameters: RequestParameters, reason: str, status: int = 400) -> bool:
    return parameters.adapt(parameters.apply(FIELDS), RequestRejectedError(status, reason))


def test_additional_fields_replace_and_remove_fields() -> None:
    parameters = RequestParameters({"temperature": None, "top_k": 1})
    assert parameters.apply(FIELDS) == {"max_tokens": 1, "model": "tiny", "top_k": 1}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (OTHER_LENGTH, {"max_completion_tokens": 1, "temperature": 0, "model": "tiny"}),
        (TEMPERATURE, {"max_tokens": 1, "model": "tiny"}),
        (MINIMUM, {"max_tokens": 16, "temperature": 0, "model": "tiny"}),
    ],
)
def test_requests_are_adapted_once(reason: str, expected: dict[str, Any]) -> None:
    parameters = RequestParameters({})
    assert adapt(parameters, reason)
    assert parameters.apply(FIELDS) == expected
    assert not adapt(parameters, reason)


def test_adaptations_add_up() -> None:
    parameters = RequestParameters({})
    assert all(adapt(parameters, reason) for reason in (OTHER_LENGTH, TEMPERATURE, MINIMUM))
    assert parameters.apply(FIELDS) == {"max_completion_tokens": 16, "model": "tiny"}


def test_a_rejected_temperature_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    parameters = RequestParameters({})
    sent = parameters.apply(FIELDS)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):  # requests that were sent before the first rejection
            assert parameters.adapt(sent, RequestRejectedError(400, TEMPERATURE))
    assert len(caplog.records) == 1
    assert "so its answers may differ" in caplog.text


@pytest.mark.parametrize("reason", ["no such field", "images are not supported", ""])
def test_other_rejections_change_nothing(reason: str) -> None:
    parameters = RequestParameters({})
    assert not adapt(parameters, reason)
    assert not adapt(parameters, TEMPERATURE, status=404)
    assert parameters.apply(FIELDS) == FIELDS


def test_fields_of_the_user_are_not_changed() -> None:
    parameters = RequestParameters({"temperature": 0.5, "max_tokens": 4})
    assert not any(adapt(parameters, reason) for reason in (OTHER_LENGTH, TEMPERATURE, MINIMUM))
    assert parameters.apply(FIELDS) == {"max_tokens": 4, "temperature": 0.5, "model": "tiny"}
