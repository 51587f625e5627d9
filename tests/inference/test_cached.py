"""Tests of cached responses: equal to uncached ones, computed once, stored immediately."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from mllm_msr.errors import BackendError, RunFolderError
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.storage.response_cache import ResponseCache
from mllm_msr.types import ChoiceScores, Completion, ImagePart, Message, Prompt, TextPart


class EchoBackend(Backend):
    """Backend that answers with the prompt's text, in reverse order, and records its prompts."""

    def __init__(self, name: str = "echo@1") -> None:
        self.name = name
        self.prompts: list[str] = []
        self.closed = False

    @property
    def fingerprint(self) -> str:
        return self.name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(images=True, choices=True, adapters=False)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        for index, prompt in reversed(list(enumerate(prompts))):
            words = text_of(prompt)
            self.prompts.append(words)
            if words.startswith("fail"):
                yield index, Completion("", 1, 0, "error", error="this prompt fails")
            else:
                yield index, Completion(f"{words}!", 10, 2)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        for index, prompt in enumerate(prompts):
            self.prompts.append(text_of(prompt))
            values = [-1 / 3 - len(text_of(prompt)) - number for number in range(len(choices))]
            yield index, ChoiceScores((*values[:-1], -math.inf), 10)

    def close(self) -> None:
        self.closed = True


def text_of(prompt: Prompt) -> str:
    parts = [part for message in prompt.messages for part in message.parts]
    return " ".join(part.text for part in parts if isinstance(part, TextPart))


def prompt(text: str, *, image: Path | None = None, trimmable: int = 0) -> Prompt:
    image = (ImagePart(image),) if image else ()
    return Prompt((Message("user", (*image, TextPart(text, trimmable))),))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ResponseCache]:
    cache = ResponseCache(tmp_path / "responses.sqlite")
    yield cache
    cache.close()


def test_responses_equal_those_of_the_backend(cache: ResponseCache) -> None:
    prompts = [prompt(f"words \ud800 {number}") for number in range(10)]
    plain = dict(EchoBackend().generate(prompts))
    for expected in ((0, 10), (10, 0)):
        backend = CachedBackend(EchoBackend(), cache)
        responses = list(backend.generate(prompts))
        assert len(responses) == 10
        assert dict(responses) == plain
        assert (backend.hits, backend.misses) == expected


def test_cached_scores_are_exact(cache: ResponseCache) -> None:
    prompts = [prompt("a"), prompt("bb")]
    plain = dict(EchoBackend().score(prompts, ["yes", "no"]))
    for _ in range(2):
        assert dict(CachedBackend(EchoBackend(), cache).score(prompts, ["yes", "no"])) == plain
    inner = EchoBackend()
    list(CachedBackend(inner, cache).score(prompts, ["no", "yes"]))
    assert inner.prompts == ["a", "bb"], "the order of choices is part of the key"


def test_identical_prompts_are_computed_once(cache: ResponseCache) -> None:
    inner = EchoBackend()
    backend = CachedBackend(inner, cache, chunk_size=4)
    words = ["a", "b", "a", "a", "b", "c"]
    responses = sorted(backend.generate(map(prompt, words)))
    assert [(i, r.text) for i, r in responses] == [(i, f"{w}!") for i, w in enumerate(words)]
    assert sorted(inner.prompts) == ["a", "b", "c"]
    assert (backend.hits, backend.misses) == (3, 3)
    assert (backend.prompt_tokens, backend.output_tokens) == (30, 6)


class ScriptedBackend(EchoBackend):
    """Backend that gives one response to everything."""

    def __init__(self, response: Completion | ChoiceScores) -> None:
        super().__init__()
        self.response = response

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        return self._respond(prompts)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        return self._respond(prompts)

    def _respond(self, prompts: Iterable[Prompt]) -> Iterator:
        return ((index, self.response) for index, _ in enumerate(prompts))


@pytest.mark.parametrize("text", ["", "<think>A lantern, so", "<think>a lantern</think>\n"])
def test_texts_without_an_answer_are_not_cached(text: str, cache: ResponseCache) -> None:
    ((_, first),) = CachedBackend(ScriptedBackend(Completion(text)), cache).generate([prompt("a")])
    assert first.text == text
    later = ScriptedBackend(Completion("A calm film."))
    ((_, second),) = CachedBackend(later, cache).generate([prompt("a")])
    assert second.text == "A calm film."


@pytest.mark.parametrize(
    "values", [(), (math.nan, -1.0), (-math.inf, -math.inf), (math.inf, -1.0), (-1.0, 0.5)]
)
def test_scores_that_are_no_probabilities_are_not_cached(
    values: tuple[float, ...], cache: ResponseCache
) -> None:
    backend = CachedBackend(ScriptedBackend(ChoiceScores(values)), cache)
    list(backend.score([prompt("a")], ["yes", "no"]))
    later = ScriptedBackend(ChoiceScores((-1.0, -2.0)))
    ((_, second),) = CachedBackend(later, cache).score([prompt("a")], ["yes", "no"])
    assert second.log_probs == (-1.0, -2.0)


def test_failures_that_an_earlier_version_cached_are_requested_again(
    cache: ResponseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mllm_msr.inference.cached._is_usable", lambda _: True)
        backend = CachedBackend(ScriptedBackend(ChoiceScores((math.nan, math.nan))), cache)
        list(backend.score([prompt("a")], ["yes", "no"]))
    later = CachedBackend(ScriptedBackend(ChoiceScores((-1.0, -2.0))), cache)
    ((_, found),) = later.score([prompt("a")], ["yes", "no"])
    assert found.log_probs == (-1.0, -2.0)


def test_failures_are_returned_and_not_cached(cache: ResponseCache) -> None:
    inner = EchoBackend()
    for _ in range(2):
        responses = dict(CachedBackend(inner, cache).generate(map(prompt, ["fail", "a", "fail"])))
        assert [responses[index].error for index in range(3)] == [
            "this prompt fails",
            None,
            "this prompt fails",
        ]
    assert sorted(inner.prompts) == ["a", "fail", "fail"]


def variants(image: Path) -> dict[str, Callable[[ResponseCache, EchoBackend], object]]:
    """Return requests that must not share a response with the plain request of the test below."""
    plain = prompt("a", image=image)

    def generate(changed: Prompt) -> Callable[[ResponseCache, EchoBackend], object]:
        return lambda cache, inner: list(CachedBackend(inner, cache).generate([changed]))

    def other_model(cache: ResponseCache, inner: EchoBackend) -> object:
        inner.name = "echo@2"
        return generate(plain)(cache, inner)

    def other_image(cache: ResponseCache, inner: EchoBackend) -> object:
        image.write_bytes(b"other pixels")
        return generate(plain)(cache, inner)

    return {
        "other model": other_model,
        "other image under the same name": other_image,
        "other salt": lambda c, i: list(CachedBackend(i, c, salt="again").generate([plain])),
        "score": lambda c, i: list(CachedBackend(i, c).score([plain], ["yes", "no"])),
        "other text": generate(prompt("b", image=image)),
        "no image": generate(prompt("a")),
        "trimmable": generate(prompt("a", image=image, trimmable=1)),
        "longer answer": generate(Prompt(plain.messages, max_new_tokens=9)),
        "budget": generate(Prompt(plain.messages, max_text_tokens=9)),
        "other role": generate(Prompt((Message("system", plain.messages[0].parts),))),
        "two turns": generate(Prompt(plain.messages * 2)),
        "parts in another order": generate(
            Prompt((Message("user", plain.messages[0].parts[::-1]),))
        ),
    }


@pytest.mark.parametrize("name", variants(Path()))
def test_other_requests_are_not_cached(cache: ResponseCache, tmp_path: Path, name: str) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"pixels")
    inner = EchoBackend()
    list(CachedBackend(inner, cache).generate([prompt("a", image=image)]))
    variants(image)[name](cache, inner)
    assert len(inner.prompts) == 2


def test_the_same_image_in_another_file_has_the_same_key(
    cache: ResponseCache, tmp_path: Path
) -> None:
    inner = EchoBackend()
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(b"pixels")
        list(CachedBackend(inner, cache).generate([prompt("a", image=tmp_path / name)]))
    assert len(inner.prompts) == 1


def test_an_image_is_hashed_once(
    cache: ResponseCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"pixels")
    hashed: list[Path] = []

    def content_hash(path: Path) -> str:
        hashed.append(path)
        return "hash"

    monkeypatch.setattr("mllm_msr.data.images.content_hash", content_hash)
    backend = CachedBackend(EchoBackend(), cache)
    list(backend.generate(prompt(str(number), image=image) for number in range(5)))
    os.utime(image, ns=(1, 1))
    list(backend.generate([prompt("later", image=image)]))
    assert hashed == [image, image]


def test_the_backend_receives_prompts_with_missing_images(
    cache: ResponseCache, tmp_path: Path
) -> None:
    backend = CachedBackend(EchoBackend(), cache)
    assert dict(backend.generate([prompt("fail", image=tmp_path / "none")]))[0].error


def test_an_infinite_stream_is_answered_in_chunks(cache: ResponseCache) -> None:
    taken = itertools.count()
    infinite = (prompt(str(next(taken))) for _ in itertools.repeat(None))
    backend = CachedBackend(EchoBackend(), cache, chunk_size=8)
    assert len(list(itertools.islice(backend.generate(infinite), 12))) == 12
    assert next(taken) <= 16


def test_hits_are_returned_before_the_backend_runs(cache: ResponseCache) -> None:
    list(CachedBackend(EchoBackend(), cache).generate([prompt("known")]))
    inner = EchoBackend()
    responses = CachedBackend(inner, cache).generate([prompt("new"), prompt("known")])
    assert next(responses)[0] == 1
    assert inner.prompts == []


def test_each_response_is_stored_soon_after_it_arrives(
    cache: ResponseCache, tmp_path: Path
) -> None:
    responses = CachedBackend(EchoBackend(), cache).generate(map(prompt, "abc"))
    next(responses)
    # Another connection sees only committed responses.
    with contextlib.closing(sqlite3.connect(tmp_path / "responses.sqlite")) as database:
        deadline = time.monotonic() + 10
        while not database.execute("SELECT count(*) FROM responses").fetchone()[0]:
            assert time.monotonic() < deadline, "the response waits for the next one"
            time.sleep(0.01)
    responses.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("end", ["closed", "failed"])
def test_responses_before_an_abrupt_end_are_stored(cache: ResponseCache, end: str) -> None:
    class Failing(EchoBackend):
        def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
            yield from itertools.islice(super().generate(prompts), 2)
            raise BackendError("The model has stopped.")

    responses = CachedBackend(Failing(), cache).generate(map(prompt, "abc"))
    assert [next(responses)[1].text, next(responses)[1].text] == ["c!", "b!"]
    if end == "closed":
        responses.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(BackendError, match="The model has stopped"):
            next(responses)
    inner = EchoBackend()
    list(CachedBackend(inner, cache).generate(map(prompt, "abc")))
    assert inner.prompts == ["a"]


def test_a_missing_response_raises_an_error(cache: ResponseCache) -> None:
    class Incomplete(EchoBackend):
        def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
            return itertools.islice(super().generate(prompts), 2)

    with pytest.raises(BackendError, match="returned no response to 1 of 3 prompts"):
        list(CachedBackend(Incomplete(), cache).generate(map(prompt, "abc")))


def test_a_cache_that_cannot_be_written_raises_an_error(cache: ResponseCache) -> None:
    responses = CachedBackend(EchoBackend(), cache).generate(map(prompt, "abc"))
    next(responses)
    cache.close()
    with pytest.raises(RunFolderError, match=r"responses\.sqlite is closed"):
        list(responses)


def test_other_members_are_delegated(cache: ResponseCache) -> None:
    inner = EchoBackend()
    backend = CachedBackend(inner, cache)
    assert backend.fingerprint == "echo@1"
    assert backend.capabilities == inner.capabilities
    backend.close()
    assert inner.closed
    assert cache.get_many([]) == {}
