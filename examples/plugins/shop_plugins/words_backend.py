"""A backend that follows rules instead of asking a model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, final

from PIL import Image
from pydantic import PositiveInt

from mllm_msr.errors import BackendError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt, TextPart

OPENING = "The user appears to have a preference for"
COLORS = {"blue": (40, 90, 170), "green": (70, 130, 80), "red": (180, 60, 50), "gray": (120,) * 3}
COMMON = frozenset(("a", "an", "and", "in", "its", "of", "the", "this", "with"))


@final
class WordsBackend(Backend):
    """Backend that repeats frequent words and answers yes if texts share words.

    Of an image, it knows the color.

    The arguments of the constructor are the settings `model.*`; their types are checked.

    Args:
        n_words: Number of words in a summary or preference.
    """

    is_local: ClassVar[bool] = True  # answers cost nothing

    def __init__(self, *, n_words: PositiveInt = 8) -> None:
        self._n_words = n_words
        self._closed = False

    @property
    def fingerprint(self) -> str:
        """Name everything that affects the answers: it is part of the keys of the cache."""
        return f"words:{self._n_words}"

    @property
    def capabilities(self) -> Capabilities:
        """Return what the backend can do."""
        return Capabilities(images=True, choices=True, adapters=False)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer with the most frequent words of the quoted texts, and the color of the image."""
        for index, prompt in enumerate(self._open(prompts)):
            text = _text(prompt)
            counts = Counter(word for quote in _quotes(text) for word in _words(quote))
            counts += Counter(map(_color, prompt.images))
            answer = " ".join(word for word, _ in counts.most_common(self._n_words))
            if OPENING in text:
                answer = f"{OPENING} {answer or 'nothing in particular'}."
            yield index, Completion(answer, prompt_tokens=_length(text), output_tokens=1)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Score "yes" by the share of the title's words that the preference contains."""
        for index, prompt in enumerate(self._open(prompts)):
            text = _text(prompt)
            *known, title = [set(_words(quote)) for quote in _quotes(text)] or [set()]
            shared = len(title & set().union(*known)) / max(1, len(title))
            yes = 0.05 + 0.9 * shared
            values = tuple(math.log(yes if choice == "yes" else 1 - yes) for choice in choices)
            yield index, ChoiceScores(values, prompt_tokens=_length(text))

    def close(self) -> None:
        """Refuse all later prompts."""
        self._closed = True

    def _open(self, prompts: Iterable[Prompt]) -> Iterable[Prompt]:
        if self._closed:
            raise BackendError("The backend is closed.")
        return prompts


def _text(prompt: Prompt) -> str:
    parts = [part for message in prompt.messages for part in message.parts]
    return "\n".join(part.text for part in parts if isinstance(part, TextPart))


def _color(path: Path) -> str:
    with Image.open(path) as image:
        color = image.convert("RGB").resize((1, 1)).tobytes()
    distances = {name: math.dist(color, known) for name, known in COLORS.items()}
    return min(distances, key=distances.__getitem__)


def _quotes(text: str) -> list[str]:
    return re.findall(r'"([^"]*)"', text.replace(f'"{OPENING}"', ""))


def _words(text: str) -> list[str]:
    found = re.findall(r"[a-z]+", text.replace(OPENING, "").lower())
    return [word for word in found if word not in COMMON]


def _length(text: str) -> int:
    return max(1, len(text.split()))
