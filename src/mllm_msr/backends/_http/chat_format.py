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
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import ExifTags

from mllm_msr.backends._http.responses import MalformedResponseError, request_error
from mllm_msr.data.images import decode_image, read_header, read_image
from mllm_msr.errors import CapabilityError, PromptTooLongError
from mllm_msr.prompts import truncation
from mllm_msr.prompts.reranking import as_dialogue, is_reranking
from mllm_msr.prompts.thoughts import is_mark, remove_thoughts
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
_TOKEN_ID: Final = re.compile(r"token_id:(\d{1,12})", re.ASCII)
# Longest token that is searched for the markup of thoughts.
_MAX_TOKEN: Final = 100
# Longest refusal that is shown.
_MAX_REFUSAL: Final = 200
# Sums of float32 probabilities may exceed 1 by rounding.
ROUNDING: Final = 1e-3


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


def require_no_vectors(prompt: Prompt) -> None:
    """Raise `CapabilityError` if a prompt has vectors, which no endpoint accepts."""
    if prompt.vectors:
        raise CapabilityError(
            "An endpoint cannot read vectors of users and items. Score with a model in this "
            "process (demo, smollm, huggingface), or set recommend.collaborative=none."
        )


def messages(prompt: Prompt) -> list[dict[str, object]]:
    """Return a prompt's turns, with images as data URLs.

    Those of a reranker become a dialogue.

    Raises:
        ImageError: An image cannot be opened.
    """
    turns: list[dict[str, object]] = []
    if is_reranking(prompt):
        prompt = as_dialogue(prompt)
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
    """Truncate a prompt to its budget of text tokens, estimated from its length.

    The tokenizer is on the server, so the count is only an estimate, usually an overestimate. The
    length is that in UTF-8, because a character that takes several bytes is about one token.

    Args:
        prompt: Any prompt.
        characters_per_token: Average number of characters of a token, in ASCII text.

    Raises:
        PromptTooLongError: Truncating the trimmable parts does not meet the budget.
    """
    if prompt.max_text_tokens is None:
        return prompt
    budget = prompt.max_text_tokens * characters_per_token
    low, high = 0, truncation.count_words(prompt)
    if _n_bytes(prompt) <= budget:
        return prompt
    if _n_bytes(truncation.cut(prompt, 0)) > budget:
        raise PromptTooLongError(
            f"The prompt has {_n_bytes(prompt)} characters, and truncation cannot reduce it "
            f"to the limit of {prompt.max_text_tokens} text tokens. Increase max_text_tokens or "
            "shorten the prompt."
        )
    while low < high:
        middle = (low + high + 1) // 2
        fits = _n_bytes(truncation.cut(prompt, middle)) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return truncation.cut(prompt, low)


def halve(prompt: Prompt) -> Prompt | None:
    """Return the prompt with half of its trimmable words, or None if it has none."""
    n_words = truncation.count_words(prompt)
    return truncation.cut(prompt, n_words // 2) if n_words else None


def require_choice(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response that contains an answer.

    Raises:
        MalformedResponseError: The response has another format.
    """
    _first_choice(response)
    return response


def parse_completion(response: Mapping[str, Any]) -> Completion:
    """Return the answer in a response. Thoughts in separate fields are left out.

    Raises:
        MalformedResponseError: The response has another format.
        TransientError: The endpoint reports that generation failed, and a retry may succeed.
        RequestRejectedError: The endpoint reports that generation failed for good.
    """
    choice = _first_choice(response)
    reason = choice.get("finish_reason")
    usage = token_usage(response)
    if reason == "content_filter":
        message = "The content filter of the endpoint blocked the answer."
        return Completion("", *usage, finish_reason="error", error=message)
    if reason == "error":
        raise request_error(None, "generation failed")
    answer = _require(choice.get("message"), dict, "message")
    text = _content_text(answer.get("content"))
    if not text and isinstance(answer.get("refusal"), str):
        error = f"The model refuses to answer: {answer['refusal'][:_MAX_REFUSAL]}"
        return Completion("", *usage, finish_reason="error", error=error)
    finish: FinishReason = "length" if reason == "length" else "stop"
    return Completion(text.strip(), *usage, finish_reason=finish)


def parse_scores(response: Mapping[str, Any], scoring: Scoring) -> ChoiceScores:
    """Return the log-probabilities of the answers in a response.

    An answer that is not listed, or has no finite log-probability, is less probable than every
    listed token. It gets the smallest listed value, and the result is marked as an upper bound.

    Raises:
        MalformedResponseError: The response has another format or no log-probabilities.
    """
    n_prompt_tokens, _ = token_usage(response)
    if mark := thought_mark(response):
        message = f"The model begins its answer with a thought ({mark}) and not with an answer."
        return ChoiceScores((), n_prompt_tokens, error=message)
    if scoring.token_ids:
        matches = ((_TOKEN_ID.fullmatch(token), value) for token, value in listed_tokens(response))
        by_id = {int(match[1]): value for match, value in matches if match}
        if missing := [i for i in scoring.token_ids if i not in by_id]:
            raise MalformedResponseError(
                f"The response lacks the log-probabilities of the tokens {missing}"
            )
        return ChoiceScores(tuple(by_id[i] for i in scoring.token_ids), n_prompt_tokens)
    found, least = listed_log_probs(response, scoring.choices)
    if all(value is None for value in found):
        n_listed = len(_first_position(response)["top_logprobs"])
        message = f"None of {list(scoring.choices)} is among the {n_listed} most probable tokens."
        return ChoiceScores((), n_prompt_tokens, error=message)
    values = tuple(least if value is None else value for value in found)
    return ChoiceScores(values, n_prompt_tokens, upper_bound=None in found)


def listed_log_probs(
    response: Mapping[str, Any], choices: Sequence[str]
) -> tuple[list[float | None], float]:
    """Return the log-probability of each answer, None if not listed, and the smallest listed one.

    Raises:
        MalformedResponseError: The response has another format or no log-probabilities.
    """
    entries = listed_tokens(response)
    found = []
    for choice in choices:
        # Tokens may include the space before the answer.
        exact = [value for token, value in entries if token == choice]
        spaced = [value for token, value in entries if token.strip(" \u2581\u0120") == choice]
        found.append(max(exact or spaced, default=None))
    return found, min((value for _, value in entries), default=0.0)


def listed_tokens(response: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the listed tokens that have a finite log-probability, the generated one last.

    Raises:
        MalformedResponseError: The response has another format or no log-probabilities.
    """
    position = _first_position(response)
    listed = [*_require(position.get("top_logprobs"), list, "top_logprobs"), position]
    pairs = [_log_prob(_require(entry, dict, "top_logprobs of objects")) for entry in listed]
    return [(token, value) for token, value in pairs if value is not None]


def thought_mark(response: Mapping[str, Any]) -> str | None:
    """Return how an answer begins if it begins with a thought, otherwise None.

    Raises:
        MalformedResponseError: The response has another format.
    """
    choice = _first_choice(response)
    token = str(_first_position(response).get("token"))[:_MAX_TOKEN]
    if is_mark(token):
        return token
    message = choice.get("message")
    fields = message if isinstance(message, dict) else {}
    text = _content_text(fields.get("content"))[:_MAX_TOKEN]
    if remove_thoughts(text).is_unfinished:
        return text.strip()
    return next((name for name in ("reasoning_content", "reasoning") if fields.get(name)), None)


@functools.lru_cache(maxsize=128)
def image_url(path: Path) -> str:
    """Return an image as a data URL with the same pixels as `open_image` returns.

    Raises:
        ImageError: The image cannot be opened.
    """
    content, kind = read_image(path), "jpeg"
    image = decode_image(content, name=str(path))
    with read_header(content, name=str(path)) as raw:
        # Any decoder returns the same pixels of such a file, which needs no change.
        is_upright = raw.getexif().get(ExifTags.Base.Orientation, 1) == 1
        is_plain_jpeg = raw.format == "JPEG" and raw.mode == "RGB" and is_upright
        is_unchanged = is_plain_jpeg and raw.size == image.size
    if not is_unchanged:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=3)
        content, kind = buffer.getvalue(), "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def escape_markup(text: str) -> str:
    """Insert a space into each tag and special token in a text, so that it loses its meaning."""
    while (escaped := _MARKUP.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)) != text:
        text = escaped
    return text


def _n_bytes(prompt: Prompt) -> int:
    return sum(len(text.encode("utf-8", "replace")) for text in prompt.texts)


def _require(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise MalformedResponseError(f"The response has no {name}")
    return value


def _first_choice(response: Mapping[str, Any]) -> dict[str, Any]:
    choices = _require(response.get("choices"), list, "choices")
    choice: dict[str, Any] = _require(choices[0] if choices else None, dict, "choices[0]")
    if choice.get("error"):
        raise request_error(None, choice["error"])
    return choice


def _first_position(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return the log-probabilities of the first new token."""
    logprobs = _require(_first_choice(response).get("logprobs"), dict, "logprobs")
    content = _require(logprobs.get("content"), list, "logprobs.content")
    position: dict[str, Any] = _require(
        content[0] if content else None, dict, "logprobs.content[0]"
    )
    return position


def _content_text(content: object) -> str:
    """Return the text of a message: a string, or the text parts of a list, without thoughts."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(str(part.get("text") or "") for part in parts)
    if not isinstance(content, str | None):
        raise MalformedResponseError(
            f"The content of the response is {type(content).__name__}, not text"
        )
    return (content or "").encode("utf-8", "replace").decode()


def _log_prob(entry: Mapping[str, Any]) -> tuple[str, float | None]:
    """Return a listed token and its log-probability; None if that is null or not finite."""
    value = entry.get("logprob")
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise MalformedResponseError(f"A log-probability is {str(value)[:40]!r}, not a number")
    if value is not None and value > ROUNDING:
        raise MalformedResponseError(f"A log-probability is {str(value)[:40]}, above 0")
    if value is None or not value >= -sys.float_info.max:
        return str(entry.get("token")), None
    return str(entry.get("token")), min(float(value), 0.0)


def token_usage(response: Mapping[str, Any]) -> tuple[int, int]:
    """Return the tokens of the prompt and of the answer that a response states, 0 if unknown."""
    usage = response.get("usage")
    counts = [
        usage.get(name) if isinstance(usage, dict) else 0
        for name in ("prompt_tokens", "completion_tokens")
    ]
    n_prompt, n_output = (
        count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0
        for count in counts
    )
    return n_prompt, n_output
