"""Tests of the endpoint backend: requests, failures, scoring, equality with local models."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from clocks import FakeClock
from endpoints import (
    HttpRequest,
    HttpResponse,
    ModelServer,
    RequestHandler,
    completion_response,
    error_response,
    last_text,
    logprobs_response,
    serve,
)
from mllm_msr.backends.demo import DemoBackend
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.openai import OpenAIBackend, adapter_name
from mllm_msr.demo_model import weights_folder
from mllm_msr.errors import BackendError, CapabilityError
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

CHOICES = ("yes", "no")


def opened(url: str, checkpoint: str = "tiny", **more: Any) -> OpenAIBackend:
    options: dict[str, Any] = {"timing": FakeClock().timing, "key_variable": "NO_KEY"}
    return OpenAIBackend(checkpoint, url=url, **(options | more))


def prompt(text: str, *images: Path, new: int = 12, **more: Any) -> Prompt:
    parts = (*map(ImagePart, images), TextPart(text))
    return Prompt((Message("user", parts),), max_new_tokens=new, **more)


def texts(backend: OpenAIBackend, *questions: str) -> list[str]:
    found = dict(backend.generate(prompt(text) for text in questions))
    return [found[index].error or found[index].text for index in range(len(questions))]


def echo_handler(request: HttpRequest) -> HttpResponse:
    return completion_response(f"You said {last_text(request)!r}.")


def test_requests_are_greedy_and_completions_have_token_counts() -> None:
    with serve(echo_handler) as server:
        ((_, answer),) = opened(server.url).generate([prompt("hello", new=9)])
    assert answer.text == "You said 'hello'."
    assert (answer.prompt_tokens, answer.output_tokens) == (7, 3)
    assert server.history[0].body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 9,
        "temperature": 0,
    }


def test_extra_fields_are_sent_and_null_removes_a_field() -> None:
    extra = {"temperature": None, "repetition_penalty": 1.0}
    with serve(echo_handler) as server:
        changed = opened(server.url, extra=extra)
        texts(changed, "hello")
    assert server.history[0].body["repetition_penalty"] == 1.0
    assert "temperature" not in server.history[0].body
    assert changed.fingerprint != opened(server.url).fingerprint


def test_a_rejected_prompt_does_not_fail_others() -> None:
    def handle(request: HttpRequest) -> HttpResponse:
        bad = "bad" in last_text(request)
        return error_response("this prompt is not allowed") if bad else echo_handler(request)

    with serve(handle) as server:
        found = texts(opened(server.url), "one", "bad", "three")
    assert found[0] == "You said 'one'."
    assert "status 400: this prompt is not allowed" in found[1]
    assert found[2] == "You said 'three'."


def test_requests_are_concurrent_up_to_the_limit() -> None:
    def handle(request: HttpRequest) -> HttpResponse:
        return HttpResponse(echo_handler(request).body, delay=0.02)

    with serve(handle) as server:
        found = texts(opened(server.url, concurrency=6), *(str(n) for n in range(60)))
    assert found == [f"You said '{n}'." for n in range(60)]
    assert 3 <= server.max_concurrent <= 6


def test_transient_failures_are_retried_until_all_prompts_succeed() -> None:
    failures = [
        error_response("slow down", 429),
        error_response("broken", 500),
        HttpResponse(b'{"choices": [{"mes'),
        HttpResponse(
            echo_handler(HttpRequest("", {"messages": [{"content": ""}]}, {})).body, cut=5
        ),
        error_response("overloaded", 503),
    ]
    seen: dict[str, int] = {}

    def handle(request: HttpRequest) -> HttpResponse:
        text = last_text(request)
        seen[text] = seen.get(text, 0) + 1
        return failures[int(text) % len(failures)] if seen[text] <= 2 else echo_handler(request)

    with serve(handle) as server:
        found = texts(opened(server.url), *(str(n) for n in range(20)))
    assert found == [f"You said '{n}'." for n in range(20)]
    assert set(seen.values()) == {3}


def test_a_prompt_beyond_the_context_is_truncated_once() -> None:
    def handle(request: HttpRequest) -> HttpResponse:
        n_words = len(last_text(request).split())
        limit = "This model's maximum context length is 60 tokens."
        return completion_response(str(n_words)) if n_words <= 60 else error_response(limit)

    def long(n_words: int) -> Prompt:
        return Prompt((Message("user", (TextPart("a " * n_words, trimmable=1),)),))

    with serve(handle) as server:
        found = dict(opened(server.url).generate([long(100), long(1000)]))
    assert (found[0].text, found[0].trimmed) == ("50", True)
    assert "maximum context length" in str(found[1].error)
    assert len(server.history) == 4


def test_max_completion_tokens_is_used_if_required() -> None:
    def handle(request: HttpRequest) -> HttpResponse:
        if "max_tokens" in request.body:
            return error_response("Unsupported parameter: use 'max_completion_tokens' instead.")
        return completion_response(str(request.body["max_completion_tokens"]))

    with serve(handle) as server:
        backend = opened(server.url, concurrency=1)
        assert texts(backend, "a") == ["12"]
        assert texts(backend, "b", "c") == ["12", "12"]
        assert len(server.history) == 4


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "set the environment variable NO_KEY"), (404, "does not offer the model 'tiny'")],
)
def test_failures_of_every_request_end_the_run(status: int, message: str) -> None:
    with (
        serve(lambda _: error_response("no", status)) as server,
        pytest.raises(BackendError, match=message),
    ):
        texts(opened(server.url), "a", "b")


def test_scoring_by_token_ids_is_preferred() -> None:
    with serve(_scoring_server(token_ids=True)) as server:
        backend = opened(server.url)
        ((_, scores),) = backend.score([prompt("film?")], CHOICES)
    assert scores.log_probs == (-1.0, -2.0)
    request = server.history[-1].body
    assert request["logprob_token_ids"] == [31, 32]
    assert request["max_tokens"] == 1
    assert request["logprobs"] is True


def test_scoring_falls_back_to_the_most_probable_tokens() -> None:
    with serve(_scoring_server(token_ids=False)) as server:
        backend = opened(server.url)
        ((_, scores),) = backend.score([prompt("film?")], CHOICES)
        assert backend.capabilities.choices
    assert scores.log_probs == (-1.0, -3.5)
    assert scores.upper_bound
    assert server.history[2].body["top_logprobs"] == 20
    assert "logprob_token_ids" not in str(server.history)


def test_an_endpoint_without_log_probabilities_cannot_score() -> None:
    with serve(echo_handler) as server:
        backend = opened(server.url, images=True)
        assert not backend.capabilities.choices
        with pytest.raises(CapabilityError, match="returns no log-probabilities"):
            list(backend.score([prompt("film?")], CHOICES))


def test_scoring_is_probed_again_after_the_server_changed() -> None:
    support = {"token_ids": True}

    def handle(request: HttpRequest) -> HttpResponse:
        if "changed" in str(request.body):
            support["token_ids"] = False
        return _scoring_server(**support)(request)

    with serve(handle) as server:
        backend = opened(server.url, concurrency=1)
        prompts = [prompt("first"), prompt("changed"), prompt("last")]
        found = dict(backend.score(prompts, CHOICES))
    assert [found[n].upper_bound for n in range(3)] == [False, True, True]
    assert [found[n].error for n in range(3)] == [None] * 3


def test_image_support_is_probed_once(images: Sequence[Path]) -> None:
    def handle(request: HttpRequest) -> HttpResponse:
        has_image = "image_url" in str(request.body)
        return error_response("this model takes text only") if has_image else echo_handler(request)

    with serve(handle) as server:
        backend = opened(server.url)
        for _ in range(2):
            with pytest.raises(CapabilityError, match="rejects images"):
                list(backend.generate([prompt("look", images[0])]))
        assert len(server.history) == 2
        assert texts(backend, "hello") == ["You said 'hello'."]


def test_an_adapter_is_a_model_with_its_own_name(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "adapter")
    name = adapter_name(adapter)

    def handle(request: HttpRequest) -> HttpResponse:
        models = HttpResponse({"data": [{"id": "tiny"}, {"id": name}]})
        return models if request.path == "/v1/models" else echo_handler(request)

    with serve(handle) as server:
        backend = opened(server.url, adapter=adapter)
        texts(backend, "a", "b")
    assert re.fullmatch(r"mllm-msr-[0-9a-f]{12}", name)
    assert backend.fingerprint == f"openai:tiny+{name}"
    assert {request.body["model"] for request in server.history if request.body} == {name}


def test_an_adapter_that_is_not_offered_is_loaded(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "adapter")
    loaded: list[str] = []

    def handle(request: HttpRequest) -> HttpResponse:
        if request.path == "/v1/models":
            return HttpResponse({"data": [{"id": n} for n in ["tiny", *loaded]]})
        if request.path == "/v1/load_lora_adapter":
            loaded.append(request.body["lora_name"])
            return HttpResponse(b"Success: it is there")
        return echo_handler(request)

    with serve(handle) as server:
        assert texts(opened(server.url, adapter=adapter), "a") == ["You said 'a'."]
    assert loaded == [adapter_name(adapter)]


def test_a_missing_adapter_ends_the_run_with_the_server_option(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "adapter")

    def handle(request: HttpRequest) -> HttpResponse:
        return (
            HttpResponse({"data": []})
            if request.path == "/v1/models"
            else error_response("no", 404)
        )

    with serve(handle) as server, pytest.raises(BackendError, match="--lora-modules mllm-msr-"):
        texts(opened(server.url, adapter=adapter), "a")


def test_the_fingerprint_of_a_folder_depends_on_its_content(tmp_path: Path) -> None:
    folder = _adapter(tmp_path / "model")
    before = opened("http://127.0.0.1:1/v1", str(folder)).fingerprint
    (folder / "adapter_config.json").write_text('{"r": 9}')
    after = opened("http://127.0.0.1:1/v1", str(folder)).fingerprint
    assert before.startswith("openai:model@")
    assert before != after


def test_the_key_is_not_in_fingerprints_errors_or_logs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    caplog.set_level(0)

    def show_key(request: HttpRequest) -> HttpResponse:
        return error_response(f"bad key {request.headers['Authorization']}", 401)

    with serve(show_key) as server:
        backend = opened(server.url, key_variable="SOME_KEY")
        with pytest.raises(BackendError) as caught:
            texts(backend, "a")
    assert "sk-secret" not in f"{caught.value} {backend.fingerprint} {caplog.text}"


@pytest.fixture(scope="module")
def served(
    tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    scratch = tmp_path_factory.mktemp("images")
    with serve(ModelServer(tiny_checkpoint("llava_next"), scratch)) as server:
        yield server.url


@pytest.fixture(scope="module")
def mixed(images: Sequence[Path]) -> list[Prompt]:
    return [
        prompt(f"Film {n}. " + "A calm lantern. " * (n % 4), *images[n % 4 : n % 4 + n % 2])
        for n in range(8)
    ]


def test_results_equal_those_of_the_same_weights_run_locally(
    served: str, mixed: list[Prompt], tiny_checkpoint: Callable[[str], Path]
) -> None:
    local = HuggingFaceBackend(str(tiny_checkpoint("llava_next")), dtype="float32", device="cpu")
    remote = opened(served)
    assert dict(remote.generate(mixed)) == dict(local.generate(mixed))
    local_scores, remote_scores = (dict(b.score(mixed, CHOICES)) for b in (local, remote))
    for index in range(len(mixed)):
        expected = pytest.approx(local_scores[index].log_probs, abs=1e-4)
        assert remote_scores[index].log_probs == expected
        assert not remote_scores[index].upper_bound


@pytest.fixture(scope="module")
def transformers_server() -> Iterator[str]:
    """Run `transformers serve`, a third-party server, with the demo model."""
    pytest.importorskip("fastapi")
    pytest.importorskip("openai", reason="required by transformers serve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    process = subprocess.Popen(
        [program, "serve", weights_folder(), *options],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.slow
@pytest.mark.skipif(not weights_folder().is_dir(), reason="weights have not been built")
def test_completions_of_transformers_serve_equal_local_ones(
    transformers_server: str, mixed: list[Prompt]
) -> None:
    remote = opened(transformers_server, str(weights_folder()), concurrency=2)
    theirs, ours = dict(remote.generate(mixed)), dict(DemoBackend().generate(mixed))
    assert theirs.keys() == ours.keys()
    for index, completion in ours.items():
        if completion.output_tokens == mixed[index].max_new_tokens:
            # If the last allowed token is an end token, that server reports "length".
            theirs[index] = replace(theirs[index], finish_reason=completion.finish_reason)
        assert theirs[index] == completion
    assert remote.capabilities.images
    # It accepts the log-probability fields and returns none.
    assert not remote.capabilities.choices


def _scoring_server(*, token_ids: bool) -> RequestHandler:
    def handle(request: HttpRequest) -> HttpResponse:
        if request.path == "/tokenize":
            if not token_ids:
                return error_response("Not Found", 404)
            answer = request.body["messages"][1:]
            return HttpResponse(
                {"tokens": [1, 2, *({"yes": 31, "no": 32}[a["content"]] for a in answer)]}
            )
        if "logprob_token_ids" in request.body:
            if not token_ids:
                return error_response("unexpected field", 422)
            return logprobs_response({"token_id:31": -1.0, "token_id:32": -2.0})
        return logprobs_response({"yes": -1.0, "well": -3.5})

    return handle


def _adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server ended while starting"
        try:
            if httpx2.get(url, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.1)
    pytest.fail("the server did not start within a minute")
