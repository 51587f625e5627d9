"""A backend that answers from a script, without any model: for tests, ours and yours.

It obeys the contract of `Backend` in full and remembers what it was asked, so that a test can
say both what a model answers and what a stage must have asked it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar, final

from mllm_msr.errors import AnswerTokenError, BackendError, CapabilityError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt, TextPart

Answers = Mapping[str, str] | Callable[[Prompt], str] | Sequence[str]
Scores = Mapping[str, Sequence[float]] | Callable[[Prompt], Sequence[float]] | Sequence[float]

_Value = TypeVar("_Value")

_EXCERPT: Final = 60


@final
class MockBackend(Backend):
    """Answers from a script.

    Args:
        answers: A sequence is given out in the order of the prompts, once each, then from its
            start again. A mapping answers with the value of the first key that the prompt's text
            contains. A function answers anything; what it raises is that prompt's failure.
        scores: The same three forms, giving probabilities, one per choice, each within (0, 1]; a
            sequence of numbers is the answer to every prompt.
        choices: Answers that count as one token; `score` refuses others.
        images: Whether prompts may hold images.
        fingerprint: What `fingerprint` says.

    Attributes:
        history: Every prompt asked so far, in order, `generate` and `score` alike.

    Example:
        >>> from mllm_msr.types import Message
        >>> backend = MockBackend({"film": "A calm film."})
        >>> prompt = Prompt((Message("user", (TextPart("Describe the film."),)),))
        >>> [(index, answer.text) for index, answer in backend.generate([prompt])]
        [(0, 'A calm film.')]
        >>> backend.history == [prompt]
        True
    """

    is_local = True

    def __init__(
        self,
        answers: Answers = ("",),
        *,
        scores: Scores = (0.5, 0.5),
        choices: Sequence[str] = ("yes", "no"),
        images: bool = True,
        fingerprint: str = "mock",
    ) -> None:
        self.history: list[Prompt] = []
        self._answers = answers
        self._scores = scores
        self._choices = frozenset(choices)
        self._images = images
        self._fingerprint = fingerprint
        self._n_answers = 0
        self._closed = False

    @property
    def fingerprint(self) -> str:
        """The name given to the constructor."""
        return f"mock:{self._fingerprint}"

    @property
    def capabilities(self) -> Capabilities:
        """Choices always, images as constructed, no adapters."""
        return Capabilities(images=self._images, choices=True, adapters=False)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer prompts from the script, in their order."""
        for index, prompt in enumerate(self._checked(prompts)):
            try:
                text = self._answer(prompt)
            except Exception as error:  # noqa: BLE001 - whatever a script raises is a failure
                yield index, Completion("", finish_reason="error", error=_sentence(error))
                continue
            words = text.split()
            kept = words[: prompt.max_new_tokens]
            yield (
                index,
                Completion(
                    text=text.strip() if kept == words else " ".join(kept),
                    prompt_tokens=_n_words(prompt),
                    output_tokens=len(kept),
                    finish_reason="stop" if kept == words else "length",
                ),
            )

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Logarithms of the script's probabilities, in the prompts' order."""
        unknown = [choice for choice in choices if choice not in self._choices]
        if unknown:
            raise AnswerTokenError(
                needed=f"answers out of {sorted(self._choices)}",
                received=f"{unknown}",
                remedy="name them in the constructor's `choices`",
            )
        return self._score(prompts, len(choices))

    def close(self) -> None:
        """Refuse further prompts."""
        self._closed = True

    def _score(self, prompts: Iterable[Prompt], n: int) -> Iterator[tuple[int, ChoiceScores]]:
        for index, prompt in enumerate(self._checked(prompts)):
            try:
                log_probs = _logarithms(self._probabilities(prompt), n)
            except Exception as error:  # noqa: BLE001 - whatever a script raises is a failure
                yield index, ChoiceScores((), error=_sentence(error))
            else:
                yield index, ChoiceScores(log_probs, prompt_tokens=_n_words(prompt))

    def _checked(self, prompts: Iterable[Prompt]) -> Iterator[Prompt]:
        if self._closed:
            raise BackendError(
                needed="an open backend", received="a closed one", remedy="make a new one"
            )
        for prompt in prompts:
            if prompt.images and not self._images:
                raise CapabilityError(
                    needed="a backend that reads images",
                    received=f"one of text only and a prompt with {prompt.images[0].name}",
                    remedy="construct it with images=True, or leave the images out",
                )
            self.history.append(prompt)
            yield prompt

    def _answer(self, prompt: Prompt) -> str:
        if isinstance(self._answers, Mapping):
            return _lookup(self._answers, prompt)
        if callable(self._answers):
            return self._answers(prompt)
        self._n_answers += 1
        return self._answers[(self._n_answers - 1) % len(self._answers)]

    def _probabilities(self, prompt: Prompt) -> Sequence[float]:
        if isinstance(self._scores, Mapping):
            return _lookup(self._scores, prompt)
        return self._scores(prompt) if callable(self._scores) else self._scores


def prompt_text(prompt: Prompt) -> str:
    """All text of a prompt, turn by turn, one line break between turns."""
    return "\n".join(
        "".join(part.text for part in message.parts if isinstance(part, TextPart))
        for message in prompt.messages
    )


def _lookup(script: Mapping[str, _Value], prompt: Prompt) -> _Value:
    text = prompt_text(prompt)
    for key, value in script.items():
        if key in text:
            return value
    raise LookupError(f"the script has no answer to {text[:_EXCERPT]!r}")


def _logarithms(probabilities: Sequence[float], n: int) -> tuple[float, ...]:
    if len(probabilities) != n or not all(0.0 < p <= 1.0 for p in probabilities):
        raise ValueError(f"the script gives {probabilities} for {n} choices")
    return tuple(math.log(p) for p in probabilities)


def _n_words(prompt: Prompt) -> int:
    return len(prompt_text(prompt).split())


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
