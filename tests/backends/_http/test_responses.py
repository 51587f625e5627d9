"""Tests of HTTP responses: error objects in successes, HTML pages, and arbitrary JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.backends._http.chat_format import Scoring, parse_completion, parse_scores
from mllm_msr.backends._http.responses import (
    MalformedResponseError,
    RequestRejectedError,
    TransientError,
    parse_response,
)
from mllm_msr.types import ChoiceScores, Completion

FAILURES = (MalformedResponseError, RequestRejectedError, TransientError)
SCORINGS = (Scoring(("yes", "no")), Scoring(("yes", "no"), token_ids=(31, 32)))


def parse(value: Any, *, status: int = 200, **more: Any) -> dict[str, Any]:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse_response(status, {}, content, **more)


@pytest.mark.parametrize("code", [429, "429", "rate_limit_exceeded"])
def test_overload_in_a_success_is_overload(code: object) -> None:
    response = {"error": {"message": "Provider returned error", "code": code}}
    with pytest.raises(TransientError, match="status 429: Provider returned error") as caught:
        parse(response)
    assert caught.value.is_overload


def test_the_type_and_status_of_an_error_count_as_well() -> None:
    with pytest.raises(TransientError, match="status 503: busy") as caught:
        parse({"error": {"message": "busy", "type": "overloaded_error", "code": None}})
    assert caught.value.is_outage
    with pytest.raises(RequestRejectedError, match="status 401: who are you"):
        parse([{"error": {"message": "who are you", "status": "UNAUTHENTICATED", "code": 401}}])


def test_errors_in_a_success_that_a_retry_cannot_help_are_rejections() -> None:
    with pytest.raises(RequestRejectedError, match="status 400: too long") as caught:
        parse({"object": "error", "message": "too long", "code": 400})
    assert not caught.value.concerns_all
    for code in (401, 402, "insufficient_quota"):
        with pytest.raises(RequestRejectedError) as caught:
            parse({"error": {"message": "no", "code": code}})
        assert caught.value.concerns_all


def test_an_error_without_a_code_shows_its_message_and_is_retried() -> None:
    for error in ("it broke", {"message": "it broke"}):
        with pytest.raises(TransientError, match="returned an error: it broke"):
            parse({"error": error, "choices": []})


def test_the_message_of_the_provider_behind_a_router_is_shown() -> None:
    error = {"message": "Provider returned error", "code": 502, "metadata": {"raw": "CUDA error"}}
    with pytest.raises(TransientError, match=r"Provider returned error \(CUDA error\)"):
        parse({"error": error})


def test_an_answer_that_an_error_ended_is_no_answer() -> None:
    choices = [{"message": {"content": "Half an"}}]
    with pytest.raises(TransientError, match="status 502: gone"):
        parse({"error": {"message": "gone", "code": 502}, "choices": choices})


def test_an_empty_body_is_named() -> None:
    with pytest.raises(MalformedResponseError, match="The response is empty"):
        parse_response(200, {}, b" ")


@pytest.mark.parametrize("error", [None, "", {}, []])
def test_an_empty_error_field_is_no_error(error: object) -> None:
    response = {"error": error, "choices": [{"message": {"content": "yes"}}]}
    assert parse(response) == response


def test_an_html_page_is_named_by_its_title() -> None:
    page = b"<!DOCTYPE html><html><head><title>Sign&nbsp;in</title></head></html>"
    with pytest.raises(MalformedResponseError, match="but an HTML page 'Sign in'"):
        parse(page)
    with pytest.raises(TransientError, match="status 502: an HTML page: '<html>Bad"):
        parse(b"<html>Bad gateway</html>", status=502)


def test_plain_text_is_a_success_only_where_it_is_expected() -> None:
    assert parse(b"Success: adapter loaded", allow_text=True) == {}
    with pytest.raises(MalformedResponseError, match="but Success: adapter loaded"):
        parse(b"Success: adapter loaded")


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"3", b'"x"', b"\xff\xfe", b"[" * 10**6])
def test_bodies_that_are_no_object_are_malformed(content: bytes) -> None:
    with pytest.raises(MalformedResponseError):
        parse(content)


# Names and values of real responses, so that generated ones come close to them.
NAMES = st.sampled_from(
    ["choices", "message", "content", "text", "type", "finish_reason", "reasoning_content"]
) | st.sampled_from(
    ["logprobs", "top_logprobs", "token", "logprob", "usage", "prompt_tokens", "error", "code"]
)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["yes", "no", "token_id:31", "token_id:9", "\ud800", "<think>", "error"])
)
JSON = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner),
    max_leaves=30,
)
LOGPROBS = st.fixed_dictionaries({"token": VALUES, "logprob": VALUES, "top_logprobs": JSON})
CHOICE = st.fixed_dictionaries(
    {"message": st.fixed_dictionaries({"content": JSON}) | JSON},
    optional={
        "logprobs": st.fixed_dictionaries({"content": st.lists(LOGPROBS) | JSON}) | JSON,
        "finish_reason": JSON,
        "error": JSON,
    },
)
RESPONSE = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE | JSON, max_size=2)}, optional={"usage": JSON, "error": JSON}
)


@given(RESPONSE | JSON, st.sampled_from([200, 201, 400, 404, 429, 500]))
def test_any_json_is_a_result_or_one_error(value: Any, status: int) -> None:
    for read in (
        parse_completion,
        *(lambda response, s=s: parse_scores(response, s) for s in SCORINGS),
    ):
        failure, result = None, None
        try:
            result = read(parse(value, status=status))
        except FAILURES as error:
            failure = str(error)
        if isinstance(result, Completion):
            result.text.encode()
            assert result.prompt_tokens >= 0
        elif isinstance(result, ChoiceScores):
            assert result.error or all(-1e308 < v <= 0 for v in result.log_probs)
        else:
            assert failure
            assert len(failure) < 600
            assert "\n" not in failure
            failure.encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_one_error(content: bytes) -> None:
    try:
        assert isinstance(parse(content), dict)
    except FAILURES as error:
        str(error).encode()
