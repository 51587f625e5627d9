"""Cached = uncached: the same replies, each computed once, kept at once, failures never."""

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

from mllm_msr.caching import CachedBackend
from mllm_msr.errors import BackendError, RunFolderError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.records import ChoiceScores, Completion, ImagePart, Message, Prompt, TextPart
from mllm_msr.replies import ReplyCache


class EchoBackend(Backend):
    """Answers with the prompt's words, in reverse order of asking, and remembers what it read."""

    def __init__(self, name: str = "echo@1") -> None:
        self.name = name
        self.asked: list[str] = []
        self.closed = False

    @property
    def identity(self) -> str:
        return self.name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(images=True, choices=True, adapters=False)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        for index, prompt in reversed(list(enumerate(prompts))):
            words = text_of(prompt)
            self.asked.append(words)
            if words.startswith("fail"):
                yield index, Completion("", 1, 0, "error", error="this prompt fails")
            else:
                yield index, Completion(f"{words}!", 10, 2)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        for index, prompt in enumerate(prompts):
            self.asked.append(text_of(prompt))
            values = [-1 / 3 - len(text_of(prompt)) - number for number in range(len(choices))]
            yield index, ChoiceScores((*values[:-1], -math.inf), 10)

    def close(self) -> None:
        self.closed = True


def text_of(prompt: Prompt) -> str:
    parts = [part for message in prompt.messages for part in message.parts]
    return " ".join(part.text for part in parts if isinstance(part, TextPart))


def prompt(text: str, *, image: Path | None = None, trimmable: int = 0) -> Prompt:
    picture = (ImagePart(image),) if image else ()
    return Prompt((Message("user", (*picture, TextPart(text, trimmable))),))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ReplyCache]:
    cache = ReplyCache(tmp_path / "replies.sqlite")
    yield cache
    cache.close()


def test_replies_are_those_of_the_backend_now_and_later(cache: ReplyCache) -> None:
    prompts = [prompt(f"words \ud800 {number}") for number in range(10)]
    plain = dict(EchoBackend().generate(prompts))
    for expected in ((0, 10), (10, 0)):
        backend = CachedBackend(EchoBackend(), cache)
        replies = list(backend.generate(prompts))
        assert len(replies) == 10
        assert dict(replies) == plain
        assert (backend.hits, backend.misses) == expected


def test_scores_survive_to_the_last_digit(cache: ReplyCache) -> None:
    prompts = [prompt("a"), prompt("bb")]
    plain = dict(EchoBackend().score(prompts, ["yes", "no"]))
    for _ in range(2):
        assert dict(CachedBackend(EchoBackend(), cache).score(prompts, ["yes", "no"])) == plain
    inner = EchoBackend()
    list(CachedBackend(inner, cache).score(prompts, ["no", "yes"]))
    assert inner.asked == ["a", "bb"], "the order of choices is part of the question"


def test_identical_prompts_are_computed_once_and_all_are_answered(cache: ReplyCache) -> None:
    inner = EchoBackend()
    backend = CachedBackend(inner, cache, chunk_size=4)
    words = ["a", "b", "a", "a", "b", "c"]
    replies = sorted(backend.generate(map(prompt, words)))
    assert [(i, r.text) for i, r in replies] == [(i, f"{w}!") for i, w in enumerate(words)]
    assert sorted(inner.asked) == ["a", "b", "c"]
    assert (backend.hits, backend.misses) == (3, 3)
    assert (backend.prompt_tokens, backend.output_tokens) == (30, 6)


def test_failures_are_passed_on_and_never_kept(cache: ReplyCache) -> None:
    inner = EchoBackend()
    for _ in range(2):
        replies = dict(CachedBackend(inner, cache).generate(map(prompt, ["fail", "a", "fail"])))
        assert [replies[index].error for index in range(3)] == [
            "this prompt fails",
            None,
            "this prompt fails",
        ]
    assert sorted(inner.asked) == ["a", "fail", "fail"]


def variants(picture: Path) -> dict[str, Callable[[ReplyCache, EchoBackend], object]]:
    """Questions that must not share a reply with the plain question of the test below."""
    plain = prompt("a", image=picture)

    def ask(changed: Prompt) -> Callable[[ReplyCache, EchoBackend], object]:
        return lambda cache, inner: list(CachedBackend(inner, cache).generate([changed]))

    def other_model(cache: ReplyCache, inner: EchoBackend) -> object:
        inner.name = "echo@2"
        return ask(plain)(cache, inner)

    def other_picture(cache: ReplyCache, inner: EchoBackend) -> object:
        picture.write_bytes(b"other pixels")
        return ask(plain)(cache, inner)

    return {
        "other model": other_model,
        "other picture under the same name": other_picture,
        "other salt": lambda c, i: list(CachedBackend(i, c, salt="again").generate([plain])),
        "score": lambda c, i: list(CachedBackend(i, c).score([plain], ["yes", "no"])),
        "other text": ask(prompt("b", image=picture)),
        "no picture": ask(prompt("a")),
        "trimmable": ask(prompt("a", image=picture, trimmable=1)),
        "longer answer": ask(Prompt(plain.messages, max_new_tokens=9)),
        "budget": ask(Prompt(plain.messages, max_text_tokens=9)),
        "other role": ask(Prompt((Message("system", plain.messages[0].parts),))),
        "two turns": ask(Prompt(plain.messages * 2)),
        "parts in another order": ask(Prompt((Message("user", plain.messages[0].parts[::-1]),))),
    }


@pytest.mark.parametrize("name", variants(Path()))
def test_other_questions_are_asked_anew(cache: ReplyCache, tmp_path: Path, name: str) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(b"pixels")
    inner = EchoBackend()
    list(CachedBackend(inner, cache).generate([prompt("a", image=picture)]))
    variants(picture)[name](cache, inner)
    assert len(inner.asked) == 2


def test_the_same_picture_at_another_place_is_the_same_question(
    cache: ReplyCache, tmp_path: Path
) -> None:
    inner = EchoBackend()
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(b"pixels")
        list(CachedBackend(inner, cache).generate([prompt("a", image=tmp_path / name)]))
    assert len(inner.asked) == 1


def test_a_picture_is_hashed_once_however_often_it_is_shown(
    cache: ReplyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(b"pixels")
    hashed: list[Path] = []

    def content_hash(path: Path) -> str:
        hashed.append(path)
        return "hash"

    monkeypatch.setattr("mllm_msr.images.content_hash", content_hash)
    backend = CachedBackend(EchoBackend(), cache)
    list(backend.generate(prompt(str(number), image=picture) for number in range(5)))
    os.utime(picture, ns=(1, 1))
    list(backend.generate([prompt("later", image=picture)]))
    assert hashed == [picture, picture]


def test_a_missing_picture_is_left_to_the_backend(cache: ReplyCache, tmp_path: Path) -> None:
    backend = CachedBackend(EchoBackend(), cache)
    assert dict(backend.generate([prompt("fail", image=tmp_path / "none")]))[0].error


def test_an_endless_stream_is_answered_as_it_comes(cache: ReplyCache) -> None:
    taken = itertools.count()
    endless = (prompt(str(next(taken))) for _ in itertools.repeat(None))
    backend = CachedBackend(EchoBackend(), cache, chunk_size=8)
    assert len(list(itertools.islice(backend.generate(endless), 12))) == 12
    assert next(taken) <= 16


def test_hits_come_before_the_backend_is_asked(cache: ReplyCache) -> None:
    list(CachedBackend(EchoBackend(), cache).generate([prompt("known")]))
    inner = EchoBackend()
    replies = CachedBackend(inner, cache).generate([prompt("new"), prompt("known")])
    assert next(replies)[0] == 1
    assert inner.asked == []


def test_each_reply_is_on_the_disk_soon_after_it_came(cache: ReplyCache, tmp_path: Path) -> None:
    replies = CachedBackend(EchoBackend(), cache).generate(map(prompt, "abc"))
    next(replies)
    # Another connection sees only what is stored.
    with contextlib.closing(sqlite3.connect(tmp_path / "replies.sqlite")) as database:
        deadline = time.monotonic() + 10
        while not database.execute("SELECT count(*) FROM replies").fetchone()[0]:
            assert time.monotonic() < deadline, "the reply waits for the next one"
            time.sleep(0.01)
    replies.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("end", ["closed", "failed"])
def test_what_came_before_an_abrupt_end_is_kept(cache: ReplyCache, end: str) -> None:
    class Failing(EchoBackend):
        def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
            yield from itertools.islice(super().generate(prompts), 2)
            raise BackendError(needed="a model", received="none", remedy="start it")

    replies = CachedBackend(Failing(), cache).generate(map(prompt, "abc"))
    assert [next(replies)[1].text, next(replies)[1].text] == ["c!", "b!"]
    if end == "closed":
        replies.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(BackendError, match="start it"):
            next(replies)
    inner = EchoBackend()
    list(CachedBackend(inner, cache).generate(map(prompt, "abc")))
    assert inner.asked == ["a"]


def test_a_backend_that_forgets_a_prompt_is_told(cache: ReplyCache) -> None:
    class Forgetful(EchoBackend):
        def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
            return itertools.islice(super().generate(prompts), 2)

    with pytest.raises(BackendError, match="reply to each of 3 prompts, received none to 1"):
        list(CachedBackend(Forgetful(), cache).generate(map(prompt, "abc")))


def test_a_cache_that_cannot_be_written_stops_the_work(cache: ReplyCache) -> None:
    replies = CachedBackend(EchoBackend(), cache).generate(map(prompt, "abc"))
    next(replies)
    cache.close()
    with pytest.raises(RunFolderError, match="one that is closed"):
        list(replies)


def test_the_rest_passes_through(cache: ReplyCache) -> None:
    inner = EchoBackend()
    backend = CachedBackend(inner, cache)
    assert backend.identity == "echo@1"
    assert backend.capabilities == inner.capabilities
    backend.close()
    assert inner.closed
    assert cache.get_many([]) == {}
