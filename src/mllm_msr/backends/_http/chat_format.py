"""The chat form of prompts and answers, as OpenAI-compatible endpoints speak it; no network here.

The pure half of `openai.py`: prompts become the JSON that is sent, replies become records.
Markup is the server's: it applies the model's own chat template. Text stays data here too, so
whatever looks like a mark of some model's markup is broken apart, since the server's tokenizer
would let it act. Yes and no (equation (1) of the paper) are read from the log-probabilities of
the first new token.
"""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from mllm_msr.backends._http.client import MalformedError
from mllm_msr.data.images import open_image
from mllm_msr.errors import PromptTooLongError
from mllm_msr.prompts import truncation
from mllm_msr.types import (
    ChoiceScores,
    Completion,
    FinishReason,
    ImagePart,
    Message,
    Prompt,
    TextPart,
)

# Tags, and the marks that instruction-tuned models are known to use.
_MARK: Final = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]|<<|>>")
_EXIF_ORIENTATION: Final = 0x0112
_NAMED_ID: Final = re.compile(r"token_id:(\d+)")


@dataclass(frozen=True, slots=True)
class Scoring:
    """How an endpoint is asked for the probabilities of given answers.

    Attributes:
        choices: The answers.
        token_ids: Their ids, where the server gives the log-probabilities of given tokens;
            else empty, and the most probable tokens are searched for them.
        n_top: How many of the most probable tokens are asked for then.
    """

    choices: tuple[str, ...]
    token_ids: tuple[int, ...] = ()
    n_top: int = 20

    def fields(self) -> dict[str, object]:
        """What a request says of it."""
        asked: dict[str, object] = {"max_tokens": 1, "temperature": 0, "logprobs": True}
        if self.token_ids:
            asked |= {"logprob_token_ids": list(self.token_ids), "return_tokens_as_token_ids": True}
        else:
            asked["top_logprobs"] = self.n_top
        return asked


def messages(prompt: Prompt) -> list[dict[str, object]]:
    """A prompt's turns, images as data URLs.

    Raises:
        ImageError: A image cannot be opened.
    """
    return [_turn(message) for message in prompt.messages]


def shortened(prompt: Prompt, *, characters_per_token: float) -> Prompt:
    """A prompt cut to its own budget of text tokens, which are guessed from its characters.

    The tokenizer is the server's, so that this is an estimate; it errs towards fewer words.

    Args:
        prompt: Any prompt.
        characters_per_token: How many characters a token has on average.

    Raises:
        PromptTooLongError: What may not be cut is too long already.
    """
    if prompt.max_text_tokens is None:
        return prompt
    budget = prompt.max_text_tokens * characters_per_token
    low, high = 0, truncation.count_words(prompt)
    if _n_characters(prompt) <= budget:
        return prompt
    if _n_characters(truncation.cut(prompt, 0)) > budget:
        raise PromptTooLongError(
            needed=f"a prompt of at most {prompt.max_text_tokens} text tokens",
            received=f"{_n_characters(prompt)} characters, of which trimming cannot take enough",
            remedy="raise max_text_tokens or shorten what the prompt is made of",
        )
    while low < high:
        middle = (low + high + 1) // 2
        fits = _n_characters(truncation.cut(prompt, middle)) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return truncation.cut(prompt, low)


def halved(prompt: Prompt) -> Prompt | None:
    """The prompt with half of its trimmable words; `None` where it has none left to give."""
    n_words = truncation.count_words(prompt)
    return truncation.cut(prompt, n_words // 2) if n_words else None


def read_completion(reply: Mapping[str, Any]) -> Completion:
    """The answer in a reply.

    Raises:
        MalformedError: The reply has another form.
    """
    choice = _first_choice(reply)
    text = _require(choice.get("message"), dict, "message").get("content")
    reason = choice.get("finish_reason")
    used = _usage(reply)
    if reason == "content_filter":
        return Completion(
            "", *used, finish_reason="error", error="the endpoint's filter withheld the answer"
        )
    if not isinstance(text, str | None):
        raise MalformedError(f"a reply whose content is {type(text).__name__}, not text")
    finish: FinishReason = "length" if reason == "length" else "stop"
    return Completion((text or "").strip(), *used, finish_reason=finish)


def read_scores(reply: Mapping[str, Any], scoring: Scoring) -> ChoiceScores:
    """The answers' log-probabilities in a reply.

    A missing answer is less probable than every token listed: it gets the least of their
    values, and the result says that it is a bound.

    Raises:
        MalformedError: The reply has another form, or no log-probabilities.
    """
    n_read, _ = _usage(reply)
    logprobs = _require(_first_choice(reply).get("logprobs"), dict, "logprobs")
    content = _require(logprobs.get("content"), list, "logprobs.content")
    position = _require(content[0] if content else None, dict, "logprobs.content[0]")
    listed = [*_require(position.get("top_logprobs"), list, "top_logprobs"), position]
    entries = [(str(entry.get("token", "")), float(entry.get("logprob", 0.0))) for entry in listed]
    if scoring.token_ids:
        by_id = _by_id(entries)
        if missing := [i for i in scoring.token_ids if i not in by_id]:
            raise MalformedError(f"a reply without the log-probabilities of the tokens {missing}")
        return ChoiceScores(tuple(by_id[i] for i in scoring.token_ids), n_read)
    found = [_by_text(entries, choice) for choice in scoring.choices]
    if all(value is None for value in found):
        return ChoiceScores(
            (),
            n_read,
            error=f"none of {list(scoring.choices)} is among the {len(entries) - 1} most probable",
        )
    least = min(value for _, value in entries)
    values = tuple(least if value is None else value for value in found)
    return ChoiceScores(values, n_read, upper_bound=None in found)


@functools.lru_cache(maxsize=128)
def image_url(path: Path) -> str:
    """A image as a data URL, with the very pixels that `open_image` sees.

    Raises:
        ImageError: It cannot be opened.
    """
    image = open_image(path)
    content, kind = path.read_bytes(), "jpeg"
    if not _is_plain_jpeg(content):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=3)
        content, kind = buffer.getvalue(), "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _is_plain_jpeg(content: bytes) -> bool:
    """Whether any decoder makes the same of it: nothing to turn, nothing to convert."""
    with Image.open(io.BytesIO(content)) as raw:
        upright = raw.getexif().get(_EXIF_ORIENTATION, 1) == 1
        return raw.format == "JPEG" and raw.mode == "RGB" and upright


def _turn(message: Message) -> dict[str, object]:
    parts: list[dict[str, object]] = []
    text = ""
    for part in message.parts:
        if isinstance(part, TextPart):
            text += part.text  # neighbours first: a mark may hide across their border
            continue
        parts += _text(text)
        text = ""
        parts.append({"type": "image_url", "image_url": {"url": image_url(part.path)}})
    parts += _text(text)
    if any(isinstance(part, ImagePart) for part in message.parts):
        return {"role": message.role, "content": parts}
    return {"role": message.role, "content": "".join(str(part["text"]) for part in parts)}


def _text(text: str) -> list[dict[str, object]]:
    return [{"type": "text", "text": escape_markup(text)}] if text else []


def escape_markup(text: str) -> str:
    """Text in which no tag or mark of a model's markup is left whole."""
    while (broken := _MARK.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)) != text:
        text = broken
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
        raise MalformedError(f"a reply without {name}")
    return value


def _first_choice(reply: Mapping[str, Any]) -> dict[str, Any]:
    choices = _require(reply.get("choices"), list, "choices")
    choice: dict[str, Any] = _require(choices[0] if choices else None, dict, "choices[0]")
    return choice


def _usage(reply: Mapping[str, Any]) -> tuple[int, int]:
    usage = reply.get("usage")
    if not isinstance(usage, dict):
        return 0, 0
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)


def _by_id(entries: Sequence[tuple[str, float]]) -> dict[int, float]:
    named = ((_NAMED_ID.fullmatch(token), value) for token, value in entries)
    return {int(match[1]): value for match, value in named if match}


def _by_text(entries: Sequence[tuple[str, float]], choice: str) -> float | None:
    """The value of a token that is the answer, with or without the space before it."""
    exact = [value for token, value in entries if token == choice]
    spaced = [value for token, value in entries if token.strip(" \u2581\u0120") == choice]
    return max(exact or spaced, default=None)
