"""Chat format of OpenAI-compatible endpoints: convert prompts to JSON and responses to records.

This is the part of the backend `openai` without network access. The server applies the model's own
chat template. Text is data: anything that resembles a special token of some model is escaped, since
the server's tokenizer would interpret it. Scores of yes and no (equation (1) of the paper) are read
from the log-probabilities of the first new token.
"""

from __future__ import annotations

import base64
import functools
import io
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from mllm_msr.backends._http.client import MalformedResponseError
from mllm_msr.data.images import open_image
from mllm_msr.errors import PromptTooLongError
from mllm_msr.prompts import truncation
from mllm_msr.types import (
    ChoiceScores,
    Completion,
    FinishReason,
    ImagePart,
    Prompt,
    TextPart,
)

# Tags and the special tokens of common instruction-tuned models.
_MARKUP: Final = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]|<<|>>")
_EXIF_ORIENTATION: Final = 0x0112
_TOKEN_ID: Final = re.compile(r"token_id:(\d+)")


@dataclass(frozen=True, slots=True)
class Scoring:
    """Method of requesting the log-probabilities of given answers.

    Attributes:
        choices: The answers.
        token_ids: Their token ids, if the server returns the log-probabilities of given tokens.
            If empty, the answers are looked up among the most probable tokens.
        n_top: How many of the most probable tokens are requested in that case.
    """

    choices: tuple[str, ...]
    token_ids: tuple[int, ...] = ()
    n_top: int = 20

    def fields(self) -> dict[str, object]:
        """Return the fields of a request."""
        fields: dict[str, object] = {"max_tokens": 1, "temperature": 0, "logprobs": True}
        if self.token_ids:
            ids = list(self.token_ids)
            return fields | {"logprob_token_ids": ids, "return_tokens_as_token_ids": True}
        return fields | {"top_logprobs": self.n_top}


def messages(prompt: Prompt) -> list[dict[str, object]]:
    """Return a prompt's turns, with images as data URLs.

    Raises:
        ImageError: An image cannot be opened.
    """
    turns: list[dict[str, object]] = []
    for message in prompt.messages:
        parts: list[dict[str, object]] = []
        for is_image, group in itertools.groupby(
            message.parts, lambda part: isinstance(part, ImagePart)
        ):
            if is_image:
                urls = [image_url(part.path) for part in group if isinstance(part, ImagePart)]
                parts += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            # Adjacent parts are joined first: a special token may span their border.
            elif text := "".join(part.text for part in group if isinstance(part, TextPart)):
                parts.append({"type": "text", "text": escape_markup(text)})
        if any(part["type"] == "image_url" for part in parts):
            turns.append({"role": message.role, "content": parts})
        else:
            text = "".join(str(part["text"]) for part in parts)
            turns.append({"role": message.role, "content": text})
    return turns


def fit_budget(prompt: Prompt, *, characters_per_token: float) -> Prompt:
    """Truncate a prompt to its budget of text tokens, estimated from its characters.

    The tokenizer is on the server, so the count is only an estimate, usually an overestimate.

    Args:
        prompt: Any prompt.
        characters_per_token: Average number of characters of a token.

    Raises:
        PromptTooLongError: Truncating the trimmable parts does not meet the budget.
    """
    if prompt.max_text_tokens is None:
        return prompt
    budget = prompt.max_text_tokens * characters_per_token
    low, high = 0, truncation.count_words(prompt)
    if _n_characters(prompt) <= budget:
        return prompt
    if _n_characters(truncation.cut(prompt, 0)) > budget:
        raise PromptTooLongError(
            f"The prompt has {_n_characters(prompt)} characters, and truncation cannot reduce it "
            f"to the limit of {prompt.max_text_tokens} text tokens. Increase max_text_tokens or "
            "shorten the prompt."
        )
    while low < high:
        middle = (low + high + 1) // 2
        fits = _n_characters(truncation.cut(prompt, middle)) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return truncation.cut(prompt, low)


def halve(prompt: Prompt) -> Prompt | None:
    """Return the prompt with half of its trimmable words, or None if it has none."""
    n_words = truncation.count_words(prompt)
    return truncation.cut(prompt, n_words // 2) if n_words else None


def parse_completion(response: Mapping[str, Any]) -> Completion:
    """Return the answer in a response.

    Raises:
        MalformedResponseError: The response has another format.
    """
    choice = _first_choice(response)
    text = _require(choice.get("message"), dict, "message").get("content")
    reason = choice.get("finish_reason")
    usage = _token_usage(response)
    if reason == "content_filter":
        message = "The content filter of the endpoint blocked the answer."
        return Completion("", *usage, finish_reason="error", error=message)
    if not isinstance(text, str | None):
        raise MalformedResponseError(
            f"The content of the response is {type(text).__name__}, not text"
        )
    finish: FinishReason = "length" if reason == "length" else "stop"
    return Completion((text or "").strip(), *usage, finish_reason=finish)


def parse_scores(response: Mapping[str, Any], scoring: Scoring) -> ChoiceScores:
    """Return the log-probabilities of the answers in a response.

    An answer that is not listed is less probable than every listed token. It gets the smallest
    listed value, and the result is marked as an upper bound.

    Raises:
        MalformedResponseError: The response has another format or no log-probabilities.
    """
    n_prompt_tokens, _ = _token_usage(response)
    logprobs = _require(_first_choice(response).get("logprobs"), dict, "logprobs")
    content = _require(logprobs.get("content"), list, "logprobs.content")
    position = _require(content[0] if content else None, dict, "logprobs.content[0]")
    listed = [*_require(position.get("top_logprobs"), list, "top_logprobs"), position]
    entries = [(str(entry.get("token", "")), float(entry.get("logprob", 0.0))) for entry in listed]
    if scoring.token_ids:
        matches = ((_TOKEN_ID.fullmatch(token), value) for token, value in entries)
        by_id = {int(match[1]): value for match, value in matches if match}
        if missing := [i for i in scoring.token_ids if i not in by_id]:
            raise MalformedResponseError(
                f"The response lacks the log-probabilities of the tokens {missing}"
            )
        return ChoiceScores(tuple(by_id[i] for i in scoring.token_ids), n_prompt_tokens)
    found = []
    for choice in scoring.choices:
        # Tokens may include the space before the answer.
        exact = [value for token, value in entries if token == choice]
        spaced = [value for token, value in entries if token.strip(" \u2581\u0120") == choice]
        found.append(max(exact or spaced, default=None))
    if all(value is None for value in found):
        message = (
            f"None of {list(scoring.choices)} is among the {len(entries) - 1} most probable tokens."
        )
        return ChoiceScores((), n_prompt_tokens, error=message)
    least = min(value for _, value in entries)
    values = tuple(least if value is None else value for value in found)
    return ChoiceScores(values, n_prompt_tokens, upper_bound=None in found)


@functools.lru_cache(maxsize=128)
def image_url(path: Path) -> str:
    """Return an image as a data URL with the same pixels as `open_image` returns.

    Raises:
        ImageError: The image cannot be opened.
    """
    image = open_image(path)
    content, kind = path.read_bytes(), "jpeg"
    with Image.open(io.BytesIO(content)) as raw:
        # Any decoder returns the same pixels of such a file, which needs no rotation or conversion.
        is_upright = raw.getexif().get(_EXIF_ORIENTATION, 1) == 1
        is_plain_jpeg = raw.format == "JPEG" and raw.mode == "RGB" and is_upright
    if not is_plain_jpeg:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=3)
        content, kind = buffer.getvalue(), "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def escape_markup(text: str) -> str:
    """Insert a space into each tag and special token in a text, so that it loses its meaning."""
    while (escaped := _MARKUP.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)) != text:
        text = escaped
    return text


def _n_characters(prompt: Prompt) -> int:
    return sum(
        len(part.text)
        for message in prompt.messages
        for part in message.parts
        if isinstance(part, TextPart)
    )


def _require(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise MalformedResponseError(f"The response has no {name}")
    return value


def _first_choice(response: Mapping[str, Any]) -> dict[str, Any]:
    choices = _require(response.get("choices"), list, "choices")
    choice: dict[str, Any] = _require(choices[0] if choices else None, dict, "choices[0]")
    return choice


def _token_usage(response: Mapping[str, Any]) -> tuple[int, int]:
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return 0, 0
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
