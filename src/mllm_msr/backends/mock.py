"""Mock backend with scripted answers, for tests without a model.

It fulfills the contract of `Backend` and records its prompts, so that a test can specify the
answers of the model and verify the prompts of a stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar, final

from mllm_msr.errors import AnswerTokenError, BackendError, CapabilityError, first_line
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt

Answers = Mapping[str, str] | Callable[[Prompt], str] | Sequence[str]
Scores = Mapping[str, Sequence[float]] | Callable[[Prompt], Sequence[float]] | Sequence[float]

_Value = TypeVar("_Value")

_EXCERPT: Final = 60
_MAX_HISTORY: Final = 2000  # a service may run for days


@final
class MockBackend(Backend):
    """Backend with scripted answers.

    Args:
        answers: A sequence is used in the order of the prompts and repeated. A mapping answers with
            the value of the first key that the prompt's text contains. A function receives the
            prompt; if it raises an exception, the prompt fails.
        scores: Probabilities, one per choice, each within (0, 1]. A sequence of numbers applies to
            every prompt; mappings and functions work as for `answers`.
        choices: Answers that count as a single token; `score` rejects others.
        images: Whether prompts may contain images.
        fingerprint: Last part of `fingerprint`.

    Attributes:
        history: The prompts received by `generate` or `score` so far, in order; of more than 4,000
            prompts, at least the latest 2,000.

    Example:
        >>> from mllm_msr.types import Message, TextPart
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
        """Return the fingerprint given to the constructor, after the backend's name."""
        return f"mock:{self._fingerprint}"

    @property
    def capabilities(self) -> Capabilities:
        """Return the capabilities: choices, images as constructed, and no adapters."""
        return Capabilities(images=self._images, choices=True, adapters=False)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer prompts from the script, in order."""
        for index, prompt in enumerate(self._record(prompts)):
            try:
                text = self._answer(prompt)
            except Exception as error:  # noqa: BLE001 - a script may raise anything
                yield index, Completion("", finish_reason="error", error=first_line(error))
                continue
            words = text.split()
            output = words[: prompt.max_new_tokens]
            yield (
                index,
                Completion(
                    text=text.strip() if output == words else " ".join(output),
                    prompt_tokens=len(prompt.text.split()),
                    output_tokens=len(output),
                    finish_reason="stop" if output == words else "length",
                ),
            )

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Return the logarithms of the script's probabilities, in order of the prompts."""
        unknown = [choice for choice in choices if choice not in self._choices]
        if unknown:
            raise AnswerTokenError(
                f"The mock backend does not know the choices {unknown}. Known: "
                f"{sorted(self._choices)}. Add them to the constructor's `choices`."
            )
        return self._score(prompts, len(choices))

    def close(self) -> None:
        """Reject further prompts."""
        self._closed = True

    def _score(
        self, prompts: Iterable[Prompt], n_choices: int
    ) -> Iterator[tuple[int, ChoiceScores]]:
        for index, prompt in enumerate(self._record(prompts)):
            try:
                log_probs = tuple(map(math.log, self._probabilities(prompt, n_choices)))
            except Exception as error:  # noqa: BLE001 - a script may raise anything
                yield index, ChoiceScores((), error=first_line(error))
            else:
                n_words = len(prompt.text.split())
                yield index, ChoiceScores(log_probs, prompt_tokens=n_words)

    def _record(self, prompts: Iterable[Prompt]) -> Iterator[Prompt]:
        """Yield prompts after adding them to the history."""
        if self._closed:
            raise BackendError("The backend is closed. Create a new one.")
        for prompt in prompts:
            if prompt.images and not self._images:
                raise CapabilityError(
                    "A text-only mock backend received a prompt with the image "
                    f"{prompt.images[0].name}. Construct it with images=True or use prompts "
                    "without images."
                )
            self.history.append(prompt)
            if len(self.history) > 2 * _MAX_HISTORY:
                del self.history[:_MAX_HISTORY]
            yield prompt

    def _answer(self, prompt: Prompt) -> str:
        if isinstance(self._answers, Mapping):
            return _lookup(self._answers, prompt)
        if callable(self._answers):
            return self._answers(prompt)
        self._n_answers += 1
        return self._answers[(self._n_answers - 1) % len(self._answers)]

    def _probabilities(self, prompt: Prompt, n_choices: int) -> Sequence[float]:
        if isinstance(self._scores, Mapping):
            found = _lookup(self._scores, prompt)
        else:
            found = self._scores(prompt) if callable(self._scores) else self._scores
        if len(found) != n_choices or not all(0 < p <= 1 for p in found):
            raise ValueError(
                f"The scripted probabilities {found} are not {n_choices} numbers in (0, 1]."
            )
        return found


def _lookup(script: Mapping[str, _Value], prompt: Prompt) -> _Value:
    text = prompt.text
    for key, value in script.items():
        if key in text:
            return value
    raise LookupError(f"The script has no answer to {text[:_EXCERPT]!r}.")
