"""Backend wrapper that caches responses in the run folder.

Stages send their prompts to this wrapper instead of the model's backend. Identical prompts are
computed once. If a process is killed, the next run of the stage sends all its prompts again, and
responses that were already stored are read from the disk. The wrapped backend is unaware of the
cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, final

from mllm_msr.config import tracing
from mllm_msr.data import images
from mllm_msr.errors import BackendError, ImageError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.prompts.thoughts import remove_thoughts
from mllm_msr.storage.response_cache import ResponseCache
from mllm_msr.types import ChoiceScores, Completion, ImagePart, Part, Prompt, TextPart

# Part of every key. Increase it if the records or the key change, to invalidate old responses.
_FORMAT: Final = 2

_Response = TypeVar("_Response", Completion, ChoiceScores)


@final
class CachedBackend(Backend):
    """Backend wrapper that caches responses.

    Args:
        backend: Answers the prompts that are not cached; closed with the wrapper.
        cache: Stores the responses; not closed with the wrapper.
        salt: Part of the key. A new salt requests new responses instead of the cached ones.
        chunk_size: Number of prompts that are looked up and sent to the backend at a time.
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
        """Return the fingerprint of the wrapped backend."""
        return self._backend.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """Return the capabilities of the wrapped backend."""
        return self._backend.capabilities

    @property
    def hits(self) -> int:
        """Return the number of prompts that were cached or equal to another prompt."""
        return self._hits

    @property
    def misses(self) -> int:
        """Return the number of prompts that the backend received, failures included."""
        return self._misses

    @property
    def prompt_tokens(self) -> int:
        """Return the number of prompt tokens of the misses, image tokens included."""
        return self._prompt_tokens

    @property
    def output_tokens(self) -> int:
        """Return the number of generated tokens of the misses."""
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
        """Answer prompts as in `Backend.generate`. Failures and empty texts are not cached."""
        return self._answer(
            prompts,
            kind=["generate"],
            compute=self._backend.generate,
            decode=lambda fields: Completion(**fields),
        )

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Score choices as in `Backend.score`. Failures are not cached."""
        return self._answer(
            prompts,
            kind=["score", *choices],
            compute=lambda missing: self._backend.score(missing, choices),
            decode=lambda fields: ChoiceScores(
                **{**fields, "log_probs": tuple(fields["log_probs"])}
            ),
        )

    def close(self) -> None:
        """Close the backend but not the cache."""
        self._backend.close()

    def _answer(
        self,
        prompts: Iterable[Prompt],
        *,
        kind: Sequence[str],
        compute: Callable[[Sequence[Prompt]], Iterator[tuple[int, _Response]]],
        decode: Callable[[dict[str, Any]], _Response],
    ) -> Iterator[tuple[int, _Response]]:
        numbered = enumerate(prompts)
        while chunk := list(itertools.islice(numbered, self._chunk_size)):
            keys = [self._key(kind, prompt) for _, prompt in chunk]
            stored = self._cache.get_many(set(keys))
            known = {key: decode(json.loads(text)) for key, text in stored.items()}
            known = {key: response for key, response in known.items() if _is_usable(response)}
            waiting: dict[str, list[int]] = {}  # prompt indices by key
            missing: dict[str, Prompt] = {}
            for key, (index, prompt) in zip(keys, chunk, strict=True):
                if key in known:
                    self._hits += 1
                    yield index, known[key]
                else:
                    waiting.setdefault(key, []).append(index)
                    missing.setdefault(key, prompt)
            if missing:
                for key, response in self._compute(missing, compute, method=kind[0]):
                    self._hits += len(waiting[key]) - 1
                    for index in waiting[key]:
                        yield index, response

    def _compute(
        self,
        missing: dict[str, Prompt],
        compute: Callable[[Sequence[Prompt]], Iterator[tuple[int, _Response]]],
        *,
        method: str,
    ) -> Iterator[tuple[str, _Response]]:
        keys = list(missing)
        unanswered = set(keys)
        call = tracing.model_call(method, model=self.fingerprint, prompts=len(keys))
        with call, _Writer(self._cache) as writer:
            for position, response in compute(list(missing.values())):
                key = keys[position]
                unanswered.discard(key)
                self._count(response)
                if _is_usable(response):
                    writer.put(key, json.dumps(dataclasses.asdict(response)))
                yield key, response
        if unanswered:
            raise BackendError(
                f"The backend {self.fingerprint} returned no response to {len(unanswered)} of "
                f"{len(keys)} prompts. A backend must yield every index exactly once."
            )

    def _count(self, response: Completion | ChoiceScores) -> None:
        self._misses += 1
        self._prompt_tokens += response.prompt_tokens
        if isinstance(response, Completion):
            self._output_tokens += response.output_tokens

    def _key(self, kind: Sequence[str], prompt: Prompt) -> str:
        fields = {
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
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def _key_of_part(self, part: Part) -> dict[str, object]:
        if isinstance(part, TextPart):
            return {"text": part.text, "trimmable": part.trimmable}
        if isinstance(part, ImagePart):
            return {"image": self._image_hash(part.path)}
        return {part.kind: part.vectors}

    def _image_hash(self, path: Path) -> str:
        try:
            state = path.stat()
            version = (path, state.st_size, state.st_mtime_ns)
            if version not in self._image_hashes:
                self._image_hashes[version] = images.content_hash(path)
            return self._image_hashes[version]
        except (OSError, ValueError, ImageError):
            # The backend will fail for this prompt. Failures are not cached, so any value works.
            return f"unreadable {path}"


def _is_usable(response: Completion | ChoiceScores) -> bool:
    """Return whether a response may be stored: it has an answer, or scores that can be compared.

    An endpoint may give a better response later, so anything else is requested again.
    """
    if response.error is not None:
        return False
    if isinstance(response, Completion):
        return bool(remove_thoughts(response.text).text)
    values = response.log_probs
    is_known = all(not math.isnan(value) and value <= 0 for value in values)
    return is_known and max(values, default=-math.inf) > -math.inf


class _Writer:
    """Background thread that stores queued responses, several per transaction.

    Each response is on the disk shortly after it arrives, and the model never waits for the disk.
    Leaving the `with` block waits until all responses are stored.
    """

    _MAX_PER_TRANSACTION: Final = 64

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
        """Queue a response; raise the error of an earlier response that could not be stored."""
        if self._error is not None:
            raise self._error
        self._queue.put((key, text))

    def _run(self) -> None:
        more = True
        while more:
            entries = [self._queue.get()]
            while len(entries) < self._MAX_PER_TRANSACTION and not self._queue.empty():
                entries.append(self._queue.get())
            more = entries[-1] is not None
            try:
                self._cache.put_many(dict(entry for entry in entries if entry is not None))
            except Exception as error:  # noqa: BLE001 - raised again by `put`
                self._error = error
                return
