"""What a backend sees: frozen, JSON-able records, free of tensors and of any model's markup.

A stage builds `Prompt`s, a backend turns them into `Completion`s (text) or `ChoiceScores`
(log-probabilities of given answers). Nothing else passes between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Item:
    """One item as the stages read it.

    Attributes:
        item_id: Identifier; never enters a prompt.
        title: Title, empty where there is none.
        text: Longer text (description, tags), empty where there is none.
        image: Path of the image, `None` where there is none.
    """

    item_id: str
    title: str = ""
    text: str = ""
    image: Path | None = None


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text inside a message.

    Attributes:
        text: The words. They are data: a backend never lets a special token in them act.
        trimmable: 0 where it is never cut; else its turn (1, 2, ...) when a token budget has to be
            met: pieces are cut from their end, all of the first before any of the second.
    """

    text: str
    trimmable: int = 0


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A image inside a message, given by its file."""

    path: Path


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A dialogue that ends with a user's turn and waits for the model's answer.

    Attributes:
        messages: The turns, oldest first.
        max_new_tokens: Upper bound of the answer's length in tokens; ignored by `score`.
        max_text_tokens: Budget for the prompt's text tokens (image tokens not counted);
            trimmable parts are cut to meet it. `None` leaves the model's own limit.
    """

    messages: tuple[Message, ...]
    max_new_tokens: int = 128
    max_text_tokens: int | None = None

    @property
    def images(self) -> tuple[Path, ...]:
        """Paths of all images, in the order in which the prompt shows them."""
        return tuple(
            part.path
            for message in self.messages
            for part in message.parts
            if isinstance(part, ImagePart)
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer to one prompt, or the reason why there is none.

    Attributes:
        text: The answer, stripped; empty where `error` is set.
        prompt_tokens: Tokens read, image tokens included.
        output_tokens: Tokens written.
        finish_reason: "stop" (the model ended), "length" (the bound cut it) or "error".
        error: One sentence, where this prompt failed.
    """

    text: str
    prompt_tokens: int = 0
    output_tokens: int = 0
    finish_reason: FinishReason = "stop"
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """Log-probabilities of given answers as the first new token.

    Attributes:
        log_probs: One natural logarithm per choice, in the order asked for, over the whole
            vocabulary (they need not sum to one); empty where `error` is set.
        prompt_tokens: Tokens read, image tokens included.
        error: One sentence, where this prompt failed.
        upper_bound: Whether a value is only an upper bound: that answer was not among the tokens
            that an endpoint lists, and is less probable than all of them.
    """

    log_probs: tuple[float, ...]
    prompt_tokens: int = 0
    error: str | None = None
    upper_bound: bool = False
