"""The backend of endpoints: what it asks, what it makes of faults, and parity with local models."""

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
from endpoints import Asked, ModelServer, Reply, Respond, listed, question, refused, said, serve
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


def texts(backend: OpenAIBackend, *asked: str) -> list[str]:
    found = dict(backend.generate(prompt(text) for text in asked))
    return [found[index].error or found[index].text for index in range(len(asked))]


def answering(asked: Asked) -> Reply:
    return said(f"You said {question(asked)!r}.")


def test_answers_are_asked_for_greedily_and_carry_their_costs() -> None:
    with serve(answering) as server:
        ((_, answer),) = opened(server.url).generate([prompt("hello", new=9)])
    assert answer.text == "You said 'hello'."
    assert (answer.prompt_tokens, answer.output_tokens) == (7, 3)
    assert server.history[0].body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 9,
        "temperature": 0,
    }


def test_further_fields_are_sent_and_null_takes_one_away() -> None:
    extra = {"temperature": None, "repetition_penalty": 1.0}
    with serve(answering) as server:
        changed = opened(server.url, extra=extra)
        texts(changed, "hello")
    assert server.history[0].body["repetition_penalty"] == 1.0
    assert "temperature" not in server.history[0].body
    assert changed.fingerprint != opened(server.url).fingerprint


def test_one_poisoned_prompt_fails_alone() -> None:
    def respond(asked: Asked) -> Reply:
        bad = "bad" in question(asked)
        return refused("this prompt is not allowed") if bad else answering(asked)

    with serve(respond) as server:
        found = texts(opened(server.url), "one", "bad", "three")
    assert found[0] == "You said 'one'."
    assert "400: this prompt is not allowed" in found[1]
    assert found[2] == "You said 'three'."


def test_many_are_asked_beside_each_other_and_no_more_than_allowed() -> None:
    def respond(asked: Asked) -> Reply:
        return Reply(answering(asked).body, delay=0.02)

    with serve(respond) as server:
        found = texts(opened(server.url, concurrency=6), *(str(n) for n in range(60)))
    assert found == [f"You said '{n}'." for n in range(60)]
    assert 3 <= server.most_at_once <= 6


def test_a_server_of_many_faults_answers_everything_in_the_end() -> None:
    faults = [
        refused("slow down", 429),
        refused("broken", 500),
        Reply(b'{"choices": [{"mes'),
        Reply(answering(Asked("", {"messages": [{"content": ""}]}, {})).body, cut=5),
        refused("overloaded", 503),
    ]
    seen: dict[str, int] = {}

    def respond(asked: Asked) -> Reply:
        text = question(asked)
        seen[text] = seen.get(text, 0) + 1
        return faults[int(text) % len(faults)] if seen[text] <= 2 else answering(asked)

    with serve(respond) as server:
        found = texts(opened(server.url), *(str(n) for n in range(20)))
    assert found == [f"You said '{n}'." for n in range(20)]
    assert set(seen.values()) == {3}


def test_a_prompt_beyond_the_context_is_shortened_once() -> None:
    def respond(asked: Asked) -> Reply:
        n_words = len(question(asked).split())
        limit = "This model's maximum context length is 60 tokens."
        return said(str(n_words)) if n_words <= 60 else refused(limit)

    def long(n_words: int) -> Prompt:
        return Prompt((Message("user", (TextPart("a " * n_words, trimmable=1),)),))

    with serve(respond) as server:
        found = dict(opened(server.url).generate([long(100), long(1000)]))
    assert found[0].text == "50"
    assert "maximum context length" in str(found[1].error)
    assert len(server.history) == 4


def test_the_newer_name_of_the_length_limit_is_learnt() -> None:
    def respond(asked: Asked) -> Reply:
        if "max_tokens" in asked.body:
            return refused("Unsupported parameter: use 'max_completion_tokens' instead.")
        return said(str(asked.body["max_completion_tokens"]))

    with serve(respond) as server:
        backend = opened(server.url, concurrency=1)
        assert texts(backend, "a") == ["12"]
        assert texts(backend, "b", "c") == ["12", "12"]
        assert len(server.history) == 4


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "set the environment variable NO_KEY"), (404, "the model 'tiny' at http")],
)
def test_what_would_meet_every_prompt_ends_the_work(status: int, message: str) -> None:
    with (
        serve(lambda _: refused("no", status)) as server,
        pytest.raises(BackendError, match=message),
    ):
        texts(opened(server.url), "a", "b")


def test_probabilities_by_token_ids_are_preferred() -> None:
    with serve(_scoring_server(token_ids=True)) as server:
        backend = opened(server.url)
        ((_, scores),) = backend.score([prompt("film?")], CHOICES)
    assert scores.log_probs == (-1.0, -2.0)
    asked = server.history[-1].body
    assert asked["logprob_token_ids"] == [31, 32]
    assert asked["max_tokens"] == 1
    assert asked["logprobs"] is True


def test_else_the_most_probable_tokens_are_read() -> None:
    with serve(_scoring_server(token_ids=False)) as server:
        backend = opened(server.url)
        ((_, scores),) = backend.score([prompt("film?")], CHOICES)
        assert backend.capabilities.choices
    assert scores.log_probs == (-1.0, -3.5)
    assert scores.upper_bound
    assert server.history[2].body["top_logprobs"] == 20
    assert "logprob_token_ids" not in str(server.history)


def test_an_endpoint_without_probabilities_says_so() -> None:
    with serve(answering) as server:
        backend = opened(server.url, images=True)
        assert not backend.capabilities.choices
        with pytest.raises(CapabilityError, match="gives no log-probabilities"):
            list(backend.score([prompt("film?")], CHOICES))


def test_a_server_that_forgets_token_ids_is_asked_the_other_way() -> None:
    forms = {"token_ids": True}

    def respond(asked: Asked) -> Reply:
        if "changed" in str(asked.body):
            forms["token_ids"] = False
        return _scoring_server(**forms)(asked)

    with serve(respond) as server:
        backend = opened(server.url, concurrency=1)
        asked = [prompt("first"), prompt("changed"), prompt("last")]
        found = dict(backend.score(asked, CHOICES))
    assert [found[n].upper_bound for n in range(3)] == [False, True, True]
    assert [found[n].error for n in range(3)] == [None] * 3


def test_images_are_asked_about_once_and_refused_early(images: Sequence[Path]) -> None:
    def respond(asked: Asked) -> Reply:
        has_image = "image_url" in str(asked.body)
        return refused("this model takes text only") if has_image else answering(asked)

    with serve(respond) as server:
        backend = opened(server.url)
        for _ in range(2):
            with pytest.raises(CapabilityError, match="refuses them"):
                list(backend.generate([prompt("look", images[0])]))
        assert len(server.history) == 1
        assert texts(backend, "hello") == ["You said 'hello'."]


def test_an_adapter_is_a_model_of_its_own_name(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "adapter")
    name = adapter_name(adapter)

    def respond(asked: Asked) -> Reply:
        models = Reply({"data": [{"id": "tiny"}, {"id": name}]})
        return models if asked.path == "/v1/models" else answering(asked)

    with serve(respond) as server:
        backend = opened(server.url, adapter=adapter)
        texts(backend, "a", "b")
    assert re.fullmatch(r"mllm-msr-[0-9a-f]{12}", name)
    assert backend.fingerprint == f"openai:tiny+{name}"
    assert {asked.body["model"] for asked in server.history if asked.body} == {name}


def test_an_adapter_that_is_not_offered_is_loaded(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "adapter")
    loaded: list[str] = []

    def respond(asked: Asked) -> Reply:
        if asked.path == "/v1/models":
            return Reply({"data": [{"id": n} for n in ["tiny", *loaded]]})
        if asked.path == "/v1/load_lora_adapter":
            loaded.append(asked.body["lora_name"])
            return Reply(b"Success: it is there")
        return answering(asked)

    with serve(respond) as server:
        assert texts(opened(server.url, adapter=adapter), "a") == ["You said 'a'."]
    assert loaded == [adapter_name(adapter)]


def test_an_adapter_that_cannot_be_had_ends_the_work_with_the_command(tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "adapter")

    def respond(asked: Asked) -> Reply:
        return Reply({"data": []}) if asked.path == "/v1/models" else refused("no", 404)

    with serve(respond) as server, pytest.raises(BackendError, match="--lora-modules mllm-msr-"):
        texts(opened(server.url, adapter=adapter), "a")


def test_a_model_given_by_its_folder_is_known_by_content(tmp_path: Path) -> None:
    folder = _adapter(tmp_path / "model")
    before = opened("http://127.0.0.1:1/v1", str(folder)).fingerprint
    (folder / "adapter_config.json").write_text('{"r": 9}')
    after = opened("http://127.0.0.1:1/v1", str(folder)).fingerprint
    assert before.startswith("openai:model@")
    assert before != after


def test_the_key_appears_in_no_fingerprint_error_or_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    caplog.set_level(0)
    echo: Respond = lambda asked: refused(f"bad key {asked.headers['Authorization']}", 401)  # noqa: E731
    with serve(echo) as server:
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


def test_answers_and_scores_are_those_of_the_same_weights_run_here(
    served: str, mixed: list[Prompt], tiny_checkpoint: Callable[[str], Path]
) -> None:
    here = HuggingFaceBackend(str(tiny_checkpoint("llava_next")), dtype="float32", device="cpu")
    there = opened(served)
    assert dict(there.generate(mixed)) == dict(here.generate(mixed))
    scores_here, scores_there = (dict(b.score(mixed, CHOICES)) for b in (here, there))
    for index in range(len(mixed)):
        expected = pytest.approx(scores_here[index].log_probs, abs=1e-4)
        assert scores_there[index].log_probs == expected
        assert not scores_there[index].upper_bound


@pytest.fixture(scope="module")
def transformers_server() -> Iterator[str]:
    """`transformers serve` with the packaged model, a server that is not ours."""
    pytest.importorskip("fastapi")
    pytest.importorskip("openai", reason="transformers serve needs it")
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
@pytest.mark.skipif(not weights_folder().is_dir(), reason="weights are not built yet")
def test_a_real_server_writes_what_the_packaged_model_writes_here(
    transformers_server: str, mixed: list[Prompt]
) -> None:
    there = opened(transformers_server, str(weights_folder()), concurrency=2)
    theirs, ours = dict(there.generate(mixed)), dict(DemoBackend().generate(mixed))
    assert theirs.keys() == ours.keys()
    for index, reply in ours.items():
        if reply.output_tokens == mixed[index].max_new_tokens:
            # An end that is the last token allowed: that server calls it cut.
            theirs[index] = replace(theirs[index], finish_reason=reply.finish_reason)
        assert theirs[index] == reply
    assert there.capabilities.images
    # It takes the fields of log-probabilities and gives none.
    assert not there.capabilities.choices


def _scoring_server(*, token_ids: bool) -> Respond:
    def respond(asked: Asked) -> Reply:
        if asked.path == "/tokenize":
            if not token_ids:
                return refused("Not Found", 404)
            answer = asked.body["messages"][1:]
            return Reply({"tokens": [1, 2, *({"yes": 31, "no": 32}[a["content"]] for a in answer)]})
        if "logprob_token_ids" in asked.body:
            if not token_ids:
                return refused("unexpected field", 422)
            return listed({"token_id:31": -1.0, "token_id:32": -2.0})
        return listed({"yes": -1.0, "well": -3.5})

    return respond


def _adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server ended while it was starting"
        try:
            if httpx2.get(url, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.1)
    pytest.fail("the server did not start within a minute")
