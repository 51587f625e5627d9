"""Token counters, and a backend that counts the prompts of a stage instead of answering them.

`pipeline/cost/estimate.py` runs the code of the stages on samples with a `CountingBackend`. Prompts
are rendered and counted with the tokenizer of the model. Responses are recycled from a pilot, or
are filler text of the maximum length.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

from mllm_msr import registry
from mllm_msr.errors import BackendError, ImageError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.models.processor_options import ProcessorOptions, configure
from mllm_msr.prompts.item_types import ENGLISH
from mllm_msr.prompts.templates import TOKENS_PER_WORD
from mllm_msr.summarization.languages import sample_text
from mllm_msr.types import ChoiceScores, Completion, Prompt

_CHARACTERS_PER_TOKEN: Final = 4
_TOKENS_PER_IMAGE: Final = 576
_FILLER: Final = (
    "a calm story about two friends who travel through old towns with warm colors and quiet "
    "music while their parents look for work in the city and the image shows red lanterns"
)


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of a prompt.

    Attributes:
        ids: Tokens with images expanded, as any values that are equal for equal tokens.
        n_image_tokens: Number of tokens that belong to images.
        n_images: Number of images whose tokens are counted.
    """

    ids: tuple[object, ...]
    n_image_tokens: int = 0
    n_images: int = 0

    @property
    def n_tokens(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)

    @property
    def tokens_per_image(self) -> int:
        """Return the mean number of tokens of an image; 0 without images."""
        return round(self.n_image_tokens / max(1, self.n_images))


class TokenCounter(Protocol):
    """Counter of the tokens of prompts and responses."""

    @property
    def basis(self) -> str:
        """Return a short description of how tokens are counted."""

    def count(self, prompt: Prompt) -> TokenCount:
        """Count the tokens of a prompt.

        Raises:
            BackendError: The prompt cannot be rendered.
            ImageError: An image cannot be opened.
            ValueError: The prompt cannot be rendered.
        """

    def count_text(self, text: str) -> int:
        """Count the tokens of a response."""


def token_counter(backend: str, arguments: Mapping[str, Any]) -> TokenCounter:
    """Return the most exact counter that is available without the model's weights.

    Args:
        backend: Name of the backend.
        arguments: Constructor arguments of the backend.

    Returns:
        A counter with the tokenizer of the checkpoint if its files can be read, otherwise an
        estimate from characters.

    Raises:
        BackendError: The checkpoint does not support an option of the processor or template.
    """
    kind = registry.find_backend(backend)
    checkpoint = kind.trainable_checkpoint(**arguments)
    if checkpoint is None:
        # A local backend without weights, such as the mock backend, counts words.
        return WordCounter() if kind.is_local else CharacterCounter()
    from mllm_msr.models.inputs import Renderer  # noqa: PLC0415 - takes seconds
    from mllm_msr.models.loading import load_processor  # noqa: PLC0415

    try:
        processor = load_processor(checkpoint, revision=arguments.get("revision"))
    except BackendError:
        return CharacterCounter()
    processor = configure(processor, ProcessorOptions.from_arguments(arguments))
    supports_images = hasattr(processor, "image_processor")
    return TokenizerCounter(Renderer(processor, supports_images=supports_images))


@dataclass(frozen=True, slots=True)
class Call:
    """One counted model call.

    Attributes:
        prompt: Tokens of the prompt.
        n_output: Tokens of the response.
        n_characters: Characters of the response.
    """

    prompt: TokenCount
    n_output: int
    n_characters: int


@final
class CountingBackend(Backend):
    """Backend that counts prompts and answers them with recycled or filler responses.

    Args:
        counter: Counts tokens.
        backend: Backend that answers the prompts, to measure real lengths; it is not closed. None
            answers with `responses` or filler text.
        responses: Responses by kind of prompt, from an earlier instance with a `backend`.
        language: Language of the responses, see `summarization.languages`.

    Attributes:
        calls: One entry for each prompt so far that could be rendered.
        n_failed: Number of prompts that could not be rendered.
        responses: Responses by kind of prompt; those of `backend` are added.
    """

    def __init__(
        self,
        counter: TokenCounter,
        *,
        backend: Backend | None = None,
        responses: Mapping[str, Sequence[Completion]] | None = None,
        language: str = ENGLISH,
    ) -> None:
        self.calls: list[Call] = []
        self.n_failed = 0
        self.responses = {kind: list(known) for kind, known in (responses or {}).items()}
        self._counter = counter
        self._backend = backend
        self._language = language
        self._turn = itertools.count()

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the backend that answers."""
        return self._backend.fingerprint if self._backend else "counting"

    @property
    def capabilities(self) -> Capabilities:
        """Return all capabilities; the wrapped backend rejects what it does not support."""
        return Capabilities(images=True, choices=True, adapters=True)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Count prompts and yield real, recycled or filler responses."""
        if self._backend is None:
            for index, prompt in enumerate(prompts):
                completion = self._recycle(prompt)
                self._count(prompt, completion)
                yield index, completion
            return
        pending = list(prompts)
        for index, completion in self._backend.generate(pending):
            if completion.error is None:
                self.responses.setdefault(_kind(pending[index]), []).append(completion)
            self._count(pending[index], completion)
            yield index, completion

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Count prompts and yield real or constant scores."""
        answer = Completion("no", output_tokens=0)
        if self._backend is None:
            for index, prompt in enumerate(prompts):
                self._count(prompt, answer)
                yield index, ChoiceScores((-1.0,) * len(choices))
            return
        pending = list(prompts)
        for index, scores in self._backend.score(pending, choices):
            self._count(pending[index], answer)
            yield index, scores

    def close(self) -> None:
        """Do nothing: the backend belongs to the caller."""

    def _count(self, prompt: Prompt, completion: Completion) -> None:
        try:
            count = self._counter.count(prompt)
        except (BackendError, ImageError, ValueError):
            self.n_failed += 1
        else:
            self.calls.append(Call(count, completion.output_tokens, len(completion.text)))

    def _recycle(self, prompt: Prompt) -> Completion:
        known = self.responses.get(_kind(prompt))
        if known:
            return known[next(self._turn) % len(known)]
        n_words = max(1, prompt.max_new_tokens // TOKENS_PER_WORD)
        # Words in random order: the output checks would reject a repetition loop.
        generator = random.Random(n_words + 1000 * next(self._turn))  # noqa: S311
        text = " ".join(generator.choices(_FILLER.split(), k=n_words))
        text = sample_text(text, self._language)
        return Completion(text, output_tokens=self._counter.count_text(text))


class TokenizerCounter:
    """Counter that uses the tokenizer and image processor of the model.

    Args:
        renderer: A `models.inputs.Renderer`.
    """

    basis = "the model's own tokenizer"

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer

    def count(self, prompt: Prompt) -> TokenCount:
        """Count the tokens of the rendered prompt."""
        rendered = self._renderer.render(prompt)
        n_image_tokens = len(rendered.input_ids) - rendered.n_text_tokens
        return TokenCount(rendered.input_ids, n_image_tokens, len(prompt.images))

    def count_text(self, text: str) -> int:
        """Count the tokens of a response, including its end-of-sequence token."""
        return len(self._renderer.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1


class WordCounter:
    """Counter of words, like the mock backend."""

    basis = "words"

    def count(self, prompt: Prompt) -> TokenCount:
        """Count the words of a prompt."""
        return TokenCount(tuple(prompt.text.split()))

    def count_text(self, text: str) -> int:
        """Count the words of a response."""
        return len(text.split())


class CharacterCounter:
    """Counter that estimates tokens from characters, for models without a readable tokenizer."""

    basis = (
        f"an estimate of {_CHARACTERS_PER_TOKEN} characters per token and {_TOKENS_PER_IMAGE} "
        "tokens per image"
    )

    def count(self, prompt: Prompt) -> TokenCount:
        """Estimate the tokens of a prompt."""
        text = prompt.text
        starts = range(0, len(text), _CHARACTERS_PER_TOKEN)
        pieces = (text[start : start + _CHARACTERS_PER_TOKEN] for start in starts)
        ids = (*[*prompt.images] * _TOKENS_PER_IMAGE, *pieces)
        return TokenCount(ids, _TOKENS_PER_IMAGE * len(prompt.images), len(prompt.images))

    def count_text(self, text: str) -> int:
        """Estimate the tokens of a response."""
        return round(len(text) / _CHARACTERS_PER_TOKEN) + 1


def _kind(prompt: Prompt) -> str:
    """Return a key shared by prompts of one template: length limit and first characters."""
    return f"{prompt.max_new_tokens} {prompt.text.strip()[:16]}"
