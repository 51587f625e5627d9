"""Tests of the endpoint backend with servers that answer in unusual ways."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clocks import FakeClock
from endpoints import (
    HttpRequest,
    HttpResponse,
    completion_response,
    error_response,
    logprobs_response,
    serve,
)
from mllm_msr.backends._http import client
from mllm_msr.backends.openai import OpenAIBackend
from mllm_msr.errors import BackendError, CapabilityError
from mllm_msr.prompts.thoughts import remove_thoughts
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

CHOICES = ("yes", "no")


def opened(url: str, **more: Any) -> OpenAIBackend:
    options: dict[str, Any] = {"timing": FakeClock().timing, "key_variable": "NO_KEY"}
    return OpenAIBackend("tiny", url=url, **(options | more))


def prompt(text: str, *images: Path) -> Prompt:
    return Prompt((Message("user", (*map(ImagePart, images), TextPart(text))),), max_new_tokens=12)


class StrictServer:
    """Server that accepts neither `max_tokens` nor temperature 0, and needs a field of its own."""

    def __init__(self, *, images: bool = True) -> None:
        self.images = images

    def __call__(self, request: HttpRequest) -> HttpResponse:
        body = request.body
        if request.path != "/v1/chat/completions":
            return error_response("Not Found", 404)
        if body.get("project") != "films":
            return error_response("The field 'project' is required.")
        if "max_tokens" in body:
            return error_response("Unsupported parameter: use 'max_completion_tokens' instead.")
        if "temperature" in body:
            return error_response("Unsupported value: 'temperature' does not support 0.")
        if "image_url" in str(body) and not self.images:
            return error_response("Input should be a valid string", 422)
        if body.get("logprobs"):
            return logprobs_response({"yes": -0.5, "no": -1.5})
        return completion_response("A calm film.")


def test_probes_adapt_and_send_additional_fields_as_generation_does(images: Sequence[Path]) -> None:
    with serve(StrictServer()) as server:
        backend = opened(server.url, extra={"project": "films"})
        capabilities = backend.capabilities
        assert (capabilities.images, capabilities.choices) == (True, True)
        ((_, scores),) = backend.score([prompt("film?", images[0])], CHOICES)
        assert scores.log_probs == (-0.5, -1.5)
        ((_, answer),) = backend.generate([prompt("film?", images[0])])
        assert answer.text == "A calm film."


def test_only_a_refusal_of_the_image_is_one(images: Sequence[Path]) -> None:
    with serve(StrictServer(images=False)) as server:
        backend = opened(server.url, extra={"project": "films"})
        with pytest.raises(CapabilityError, match=r"rejects images \(.*Input should be a valid"):
            list(backend.generate([prompt("film?", images[0])]))
        with pytest.raises(BackendError, match=r"rejects every request: .*'project' is required"):
            opened(server.url).capabilities.images  # noqa: B018 - the property sends requests
        with pytest.raises(BackendError, match=r"rejects every request: .*'project' is required"):
            list(opened(server.url, images=True).score([prompt("film?")], CHOICES))


def test_a_model_that_an_image_request_does_not_find_reads_text_only(
    images: Sequence[Path],
) -> None:
    def handle(request: HttpRequest) -> HttpResponse:
        if "image_url" in str(request.body):
            return error_response("No endpoints found that support image input", 404)
        return completion_response("A film.")

    with (
        serve(handle) as server,
        pytest.raises(CapabilityError, match="No endpoints found that support image input"),
    ):
        list(opened(server.url).generate([prompt("film?", images[0])]))


def test_a_null_log_probability_is_a_bound() -> None:
    response = logprobs_response({"yes": -0.2, "no": None})  # type: ignore[dict-item]
    with serve(lambda _: response) as server:
        ((_, scores),) = opened(server.url).score([prompt("film?")], CHOICES)
    assert (scores.log_probs, scores.upper_bound) == ((-0.2, -0.2), True)


def test_a_model_that_begins_with_thoughts_is_not_scored() -> None:
    with (
        serve(lambda _: logprobs_response({"<think>": -0.1, "yes": -8.0, "no": -9.0})) as server,
        pytest.raises(CapabilityError, match=r"with a thought \(<think>\).*enable_thinking: false"),
    ):
        list(opened(server.url).score([prompt("film?")], CHOICES))


def test_a_chat_template_that_opens_a_thought_is_not_scored() -> None:
    def handle(request: HttpRequest) -> HttpResponse:
        if request.path == "/tokenize":
            has_answer = len(request.body["messages"]) > 1
            words = ["<|assistant|>", "<think>", "\n"]
            return HttpResponse({"tokens": [1, 2, 3, 31][: 3 + has_answer], "token_strs": words})
        return logprobs_response({"token_id:31": -1.0})

    with (
        serve(handle) as server,
        pytest.raises(CapabilityError, match=r"with a thought \(<\|assistant\|><think>\)"),
    ):
        list(opened(server.url).score([prompt("film?")], CHOICES))


class ThinkingServer:
    """Server without a reasoning parser, whose chat template opens a thought."""

    def __init__(self, *, shows_prompt: bool) -> None:
        self.shows_prompt = shows_prompt

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path == "/tokenize" and self.shows_prompt:
            return HttpResponse({"tokens": [1, 2], "token_strs": ["<|assistant|>", "<think>\n"]})
        if request.path != "/v1/chat/completions":
            return error_response("Not Found", 404)
        words = ["The", "user", "wants", "a", "calm", "film.", "</think>", "A", "film."]
        limit = request.body["max_tokens"] - (6 if "slow" in str(request.body) else 0)
        finish = "length" if limit < len(words) else "stop"
        return completion_response(" ".join(words[:limit]), finish=finish)


@pytest.mark.parametrize("shows_prompt", [True, False])
def test_a_cut_thought_that_the_prompt_opened_is_no_answer(shows_prompt: bool) -> None:
    with serve(ThinkingServer(shows_prompt=shows_prompt)) as server:
        backend = opened(server.url)
        prompts = [prompt("slow"), prompt("film?"), prompt("slow too")]
        found = dict(backend.generate(prompts))
        n_requests = len(server.history)
        assert n_requests == 3 + (1 if shows_prompt else 2)
    for index in (0, 2):
        assert found[index].finish_reason == "length"
        assert remove_thoughts(found[index].text).is_unfinished
    assert remove_thoughts(found[1].text).text == "A film."


def test_a_cut_answer_of_a_model_without_thoughts_is_an_answer() -> None:
    with serve(lambda _: completion_response("A calm", finish="length")) as server:
        ((_, answer),) = opened(server.url).generate([prompt("film?")])
    assert (answer.text, answer.finish_reason) == ("A calm", "length")


def test_overload_in_a_success_is_retried() -> None:
    error = {"error": {"message": "Provider returned error", "code": 429}}
    responses = [HttpResponse(error), HttpResponse(error), completion_response("A film.")]
    with serve(lambda _: responses.pop(0)) as server:
        ((_, answer),) = opened(server.url).generate([prompt("film?")])
    assert answer.text == "A film."


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (HttpResponse({"error": {"message": "it broke"}}), "returned an error: it broke"),
        (HttpResponse(b"<html><title>Sign in</title></html>"), "an HTML page 'Sign in'"),
        (HttpResponse(b"["), "is not a JSON object"),
        (HttpResponse(b"not gzip", headers={"Content-Encoding": "gzip"}), "DecodingError"),
        (HttpResponse({"choices": None}), "has no choices"),
    ],
)
def test_the_reason_of_a_failure_is_shown(response: HttpResponse, reason: str) -> None:
    with serve(lambda _: response) as server:
        ((_, answer),) = opened(server.url, attempts=2).generate([prompt("film?")])
        assert reason in str(answer.error)
        with pytest.raises(BackendError, match="does not answer") as caught:
            opened(server.url, attempts=2).capabilities.images  # noqa: B018 - as above
        assert reason in str(caught.value)


def test_an_account_without_credit_ends_the_run() -> None:
    with (
        serve(lambda _: error_response("Insufficient credits", 402)) as server,
        pytest.raises(BackendError, match="Check the credit of the account"),
    ):
        list(opened(server.url).generate([prompt("film?")]))


def test_a_response_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_MAX_BYTES", 1000)
    with serve(lambda _: completion_response("film " * 1000)) as server:
        ((_, answer),) = opened(server.url).generate([prompt("film?")])
    assert "the response has more than 1,000 bytes" in str(answer.error)


def test_a_long_retry_after_does_not_stop_other_prompts() -> None:
    def handle(request: HttpRequest) -> HttpResponse:
        if "slow" in str(request.body):
            return HttpResponse({"error": "later"}, status=429, headers={"Retry-After": "inf"})
        return completion_response("A film.")

    start = time.monotonic()
    with serve(handle) as server:
        backend = opened(server.url, concurrency=1, total_timeout=60.0)
        found = dict(backend.generate([prompt("slow"), prompt("fast")]))
    assert "later" in str(found[0].error)
    assert found[1].text == "A film."
    assert time.monotonic() - start < 30


def test_a_key_that_no_header_can_contain_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILM_KEY", "caf\u00e9")
    with pytest.raises(BackendError, match="FILM_KEY contains characters that no API key has"):
        list(opened("http://127.0.0.1:9/v1", key_variable="FILM_KEY").generate([prompt("x")]))


def test_text_that_cannot_be_encoded_is_sent() -> None:
    with serve(lambda _: completion_response("A film.")) as server:
        ((_, answer),) = opened(server.url).generate([prompt("\ud800")])
    assert answer.text == "A film."
