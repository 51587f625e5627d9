"""A backend that remembers: any `Backend` in front of which stands the run's response cache.

Stages hand their prompts to this one instead of the model's own backend. Identical prompts are
computed once, and a process that was killed goes on where it stopped: the stage asks everything
again, and what was answered comes from the disk. Backends know nothing of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, final

from mllm_msr.data import images
from mllm_msr.errors import BackendError, ImageError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.storage.response_cache import ResponseCache
from mllm_msr.types import ChoiceScores, Completion, Part, Prompt, TextPart

# Part of every key: another form of the records or of the key makes old responses unknown.
_FORMAT: Final = 1

_Reply = TypeVar("_Reply", Completion, ChoiceScores)


@final
class CachedBackend(Backend):
    """Answers from the cache what was asked before, and asks the backend the rest.

    Args:
        backend: Computes what the cache does not hold; closed with this one.
        cache: Keeps the responses; not closed.
        salt: Responses under another salt are not used ("second try").
        chunk_size: Prompts that are looked up, and handed to the backend, at a time.
    """

    def __init__(
        self, backend: Backend, cache: ResponseCache, *, salt: str = "", chunk_size: int = 4096
    ) -> None:
        self._backend = backend
        self._cache = cache
        self._salt = salt
        self._chunk_size = chunk_size
        self._image_hashes: dict[tuple[Path, int, int], str] = {}
        self._hits = self._misses = self._prompt_tokens = self._output_tokens = 0

    @property
    def fingerprint(self) -> str:
        """The backend's own fingerprint."""
        return self._backend.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """The backend's own capabilities."""
        return self._backend.capabilities

    @property
    def hits(self) -> int:
        """Prompts answered without the backend: kept from before, or equal to another one."""
        return self._hits

    @property
    def misses(self) -> int:
        """Prompts that the backend was asked, failures included."""
        return self._misses

    @property
    def prompt_tokens(self) -> int:
        """Tokens that the backend has read for the misses, image tokens included."""
        return self._prompt_tokens

    @property
    def output_tokens(self) -> int:
        """Tokens that the backend has written for the misses."""
        return self._output_tokens

    def usage(self) -> dict[str, int]:
        """Return cache misses, cache hits and tokens, under the names of the manifest."""
        return {
            "misses": self._misses,
            "hits": self._hits,
            "prompt_tokens": self._prompt_tokens,
            "output_tokens": self._output_tokens,
        }

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer prompts, as `Backend.generate` says; failures are never kept."""
        return self._answer(
            prompts,
            kind=["generate"],
            ask=self._backend.generate,
            decode=lambda fields: Completion(**fields),
        )

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Score choices, as `Backend.score` says; failures are never kept."""
        return self._answer(
            prompts,
            kind=["score", *choices],
            ask=lambda missing: self._backend.score(missing, choices),
            decode=lambda fields: ChoiceScores(
                **{**fields, "log_probs": tuple(fields["log_probs"])}
            ),
        )

    def close(self) -> None:
        """Close the backend; the cache stays open."""
        self._backend.close()

    def _answer(
        self,
        prompts: Iterable[Prompt],
        *,
        kind: Sequence[str],
        ask: Callable[[Sequence[Prompt]], Iterator[tuple[int, _Reply]]],
        decode: Callable[[dict[str, Any]], _Reply],
    ) -> Iterator[tuple[int, _Reply]]:
        numbered = enumerate(prompts)
        while chunk := list(itertools.islice(numbered, self._chunk_size)):
            keys = [self._key(kind, prompt) for _, prompt in chunk]
            known = self._cache.get_many(set(keys))
            waiting: dict[str, list[int]] = {}  # indices that wait for the response to a key
            missing: dict[str, Prompt] = {}
            for key, (index, prompt) in zip(keys, chunk, strict=True):
                if key in known:
                    self._hits += 1
                    yield index, decode(json.loads(known[key]))
                else:
                    waiting.setdefault(key, []).append(index)
                    missing.setdefault(key, prompt)
            if missing:
                for key, response in self._compute(missing, ask):
                    self._hits += len(waiting[key]) - 1
                    for index in waiting[key]:
                        yield index, response

    def _compute(
        self,
        missing: dict[str, Prompt],
        ask: Callable[[Sequence[Prompt]], Iterator[tuple[int, _Reply]]],
    ) -> Iterator[tuple[str, _Reply]]:
        keys = list(missing)
        unanswered = set(keys)
        with _Writer(self._cache) as writer:
            for position, response in ask(list(missing.values())):
                key = keys[position]
                unanswered.discard(key)
                self._count(response)
                if response.error is None:
                    writer.put(key, json.dumps(dataclasses.asdict(response)))
                yield key, response
        if unanswered:
            raise BackendError(
                needed=f"one response to each of {len(keys)} prompts",
                received=f"none to {len(unanswered)} of them from {self.fingerprint}",
                remedy="mend the backend, it must yield every index once",
            )

    def _count(self, response: Completion | ChoiceScores) -> None:
        self._misses += 1
        self._prompt_tokens += response.prompt_tokens
        if isinstance(response, Completion):
            self._output_tokens += response.output_tokens

    def _key(self, kind: Sequence[str], prompt: Prompt) -> str:
        question = {
            "format": _FORMAT,
            "salt": self._salt,
            "model": self.fingerprint,
            "kind": kind,
            "messages": [
                [message.role, *map(self._key_of_part, message.parts)]
                for message in prompt.messages
            ],
            "max_new_tokens": prompt.max_new_tokens,
            "max_text_tokens": prompt.max_text_tokens,
        }
        text = json.dumps(question, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def _key_of_part(self, part: Part) -> dict[str, str | int]:
        if isinstance(part, TextPart):
            return {"text": part.text, "trimmable": part.trimmable}
        return {"image": self._image_hash(part.path)}

    def _image_hash(self, path: Path) -> str:
        try:
            state = path.stat()
            known = (path, state.st_size, state.st_mtime_ns)
            if known not in self._image_hashes:
                self._image_hashes[known] = images.content_hash(path)
            return self._image_hashes[known]
        except (OSError, ValueError, ImageError):
            # The backend fails on it, and failures are not kept: any mark will do.
            return f"unreadable {path}"


class _Writer:
    """Stores responses in a thread, as many in one transaction as have come meanwhile.

    So each is on the disk a moment after it came, however fast they come, and the model never
    waits for the disk. Leaving the block waits until all are stored.
    """

    _MOST_AT_ONCE: Final = 64

    def __init__(self, cache: ResponseCache) -> None:
        self._cache = cache
        self._queue: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="response-cache", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def put(self, key: str, text: str) -> None:
        """Hand over a response; raises what storing an earlier one has raised."""
        if self._error is not None:
            raise self._error
        self._queue.put((key, text))

    def _run(self) -> None:
        more = True
        while more:
            entries = [self._queue.get()]
            while len(entries) < self._MOST_AT_ONCE and not self._queue.empty():
                entries.append(self._queue.get())
            more = entries[-1] is not None
            try:
                self._cache.put_many(dict(entry for entry in entries if entry is not None))
            except Exception as error:  # noqa: BLE001 - raised again where the responses come from
                self._error = error
                return
