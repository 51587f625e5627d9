"""A backend that answers nothing and counts everything: the scales on which `pipeline/cost/estimate.py` weighs.

Stages are run on samples against a `CountingBackend`: their real prompts are rendered by the model's own
tokenizer and counted, and answers are taken from a pool of what the model wrote in a pilot, or
from filler text as long as the stage allows. So the bill follows the code that will be run.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast, final

from mllm_msr import registry
from mllm_msr.errors import BackendError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt, TextPart

# Stages bound answers by three tokens for each word that they allow.
_TOKENS_PER_ALLOWED_WORD: Final = 3
_CHARACTERS_PER_TOKEN: Final = 4.0
_TOKENS_PER_IMAGE: Final = 576
_FILLER: Final = (
    "a calm case_study about two friends who travel through old towns with warm colours and quiet "
    "music while their parents look for work in the city and the image shows red lanterns"
)


@dataclass(frozen=True, slots=True)
class Counted:
    """A prompt on the scales.

    Attributes:
        ids: Its tokens, images expanded; any values that are equal where tokens are.
        n_image_tokens: How many of them belong to images.
    """

    ids: tuple[object, ...]
    n_image_tokens: int = 0

    @property
    def n_tokens(self) -> int:
        """Tokens in all."""
        return len(self.ids)


class TokenCounter(Protocol):
    """Counts as the model that will answer counts."""

    @property
    def basis(self) -> str:
        """How it counts, in a few words."""

    def count(self, prompt: Prompt) -> Counted:
        """A prompt's tokens; raises `MllmMsrError` or `ValueError` where it cannot be rendered."""

    def count_text(self, text: str) -> int:
        """Tokens of an answer."""


def counter_for(backend: str, arguments: Mapping[str, Any]) -> TokenCounter:
    """The best counter that can be had without the model's weights.

    Args:
        backend: Name of the backend.
        arguments: Its arguments.

    Returns:
        The checkpoint's own tokenizer where its files can be read; else a guess by characters.
    """
    kind = cast("type[Backend]", registry.find("backends", backend))
    checkpoint = kind.trainable_checkpoint(**arguments)
    if checkpoint is None and kind.is_local:
        return _Words()
    from mllm_msr.models.inputs import Renderer  # noqa: PLC0415
    from mllm_msr.models.loading import load_processor  # noqa: PLC0415 - takes seconds

    try:
        processor = load_processor(str(checkpoint), revision=arguments.get("revision"))
        reads_images = hasattr(processor, "image_processor")
        return _Tokens(Renderer(processor, supports_images=reads_images))
    except BackendError:
        return _Guess()


@dataclass(frozen=True, slots=True)
class Call:
    """One question that a stage asked.

    Attributes:
        counted: Its prompt.
        n_output: Tokens of its answer.
        n_characters: Characters of its answer.
    """

    counted: Counted
    n_output: int
    n_characters: int


@final
class CountingBackend(Backend):
    """Counts what stages ask, and answers from a pool.

    Args:
        counter: Counts tokens.
        engine: Answers for real, if the lengths of its answers are wanted; not closed.
        pool: Answers to give by the kind of prompt, of an earlier counting_backend with an engine.

    Attributes:
        calls: Every question so far that could be rendered.
        n_failed: Questions that could not.
        pool: Answers by the kind of prompt; the engine's are added.
    """

    def __init__(
        self,
        counter: TokenCounter,
        *,
        engine: Backend | None = None,
        pool: Mapping[str, Sequence[Completion]] | None = None,
    ) -> None:
        self.calls: list[Call] = []
        self.n_failed = 0
        self.pool = {kind: list(answers) for kind, answers in (pool or {}).items()}
        self._counter = counter
        self._engine = engine
        self._turn = itertools.count()

    @property
    def fingerprint(self) -> str:
        """Of the engine, if there is one."""
        return self._engine.fingerprint if self._engine else "counting_backend"

    @property
    def capabilities(self) -> Capabilities:
        """Everything: what an engine cannot do is its own to refuse."""
        return Capabilities(images=True, choices=True, adapters=True)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answers of the engine, of the pool, or filler; each is counted."""
        if self._engine is None:
            for index, prompt in enumerate(prompts):
                yield index, self._noted(prompt, self._pooled(prompt))
            return
        asked = list(prompts)
        for index, completion in self._engine.generate(asked):
            if completion.error is None:
                self.pool.setdefault(_kind(asked[index]), []).append(completion)
            yield index, self._noted(asked[index], completion)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Scores of the engine, or even ones; each prompt is counted."""
        if self._engine is None:
            for index, prompt in enumerate(prompts):
                self._noted(prompt, Completion("no", output_tokens=0))
                yield index, ChoiceScores((-1.0,) * len(choices))
            return
        asked = list(prompts)
        for index, scores in self._engine.score(asked, choices):
            self._noted(asked[index], Completion("no", output_tokens=0))
            yield index, scores

    def close(self) -> None:
        """Nothing is held."""

    def _noted(self, prompt: Prompt, completion: Completion) -> Completion:
        try:
            counted = self._counter.count(prompt)
        except (BackendError, ValueError):
            self.n_failed += 1
            return completion
        self.calls.append(Call(counted, completion.output_tokens, len(completion.text)))
        return completion

    def _pooled(self, prompt: Prompt) -> Completion:
        known = self.pool.get(_kind(prompt))
        if not known:
            n_words = max(1, prompt.max_new_tokens // _TOKENS_PER_ALLOWED_WORD)
            # One drawing for each prompt, or answers would look like endless repetition.
            drawn = random.Random(n_words + 1000 * next(self._turn))  # noqa: S311
            text = " ".join(drawn.choices(_FILLER.split(), k=n_words))
            return Completion(text, output_tokens=self._counter.count_text(text))
        return known[next(self._turn) % len(known)]


class _Tokens:
    """Counts with the model's own tokenizer and image processor."""

    basis = "the model's own tokenizer"

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer

    def count(self, prompt: Prompt) -> Counted:
        rendered = self._renderer.render(prompt)
        return Counted(rendered.input_ids, len(rendered.input_ids) - rendered.n_text_tokens)

    def count_text(self, text: str) -> int:
        # One more: the mark with which an answer ends.
        return len(self._renderer.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1


class _Words:
    """Counts words, as the scripted backend does."""

    basis = "words"

    def count(self, prompt: Prompt) -> Counted:
        return Counted(tuple(_text(prompt).split()))

    def count_text(self, text: str) -> int:
        return len(text.split())


class _Guess:
    """Counts characters, where no tokenizer can be read."""

    basis = f"a guess: {_CHARACTERS_PER_TOKEN:g} characters a token, {_TOKENS_PER_IMAGE} a image"

    def count(self, prompt: Prompt) -> Counted:
        n_image_tokens = _TOKENS_PER_IMAGE * len(prompt.images)
        text, step = _text(prompt), int(_CHARACTERS_PER_TOKEN)
        pieces = (text[start : start + step] for start in range(0, len(text), step))
        return Counted((*[*prompt.images] * _TOKENS_PER_IMAGE, *pieces), n_image_tokens)

    def count_text(self, text: str) -> int:
        return round(len(text) / _CHARACTERS_PER_TOKEN) + 1


def _text(prompt: Prompt) -> str:
    return "\n".join(
        "".join(part.text for part in message.parts if isinstance(part, TextPart))
        for message in prompt.messages
    )


def _kind(prompt: Prompt) -> str:
    """Prompts of one template begin alike and have one bound."""
    return f"{prompt.max_new_tokens} {_text(prompt).strip()[:16]}"
