"""Probes of an endpoint's capabilities: images, scoring and adapters, each tested once.

A list of servers and versions would become outdated. The backend `openai` instead tries the
required features on a tiny prompt.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from PIL import Image

from mllm_msr.backends._http.chat_format import Scoring, parse_scores, thought_mark
from mllm_msr.backends._http.client import Endpoint, RetriesExhaustedError
from mllm_msr.backends._http.responses import MalformedResponseError, RequestRejectedError
from mllm_msr.errors import AnswerTokenError, BackendError, CapabilityError
from mllm_msr.prompts.thoughts import opens_thought

# Sends fields to a route, as all requests are sent (with the model's name and `extra`), and returns
# the response's JSON.
Post = Callable[[str, Mapping[str, object]], Awaitable[dict[str, Any]]]

CHAT: Final = "chat/completions"

_TURN: Final = {"role": "user", "content": "Answer only yes or no."}
_IMAGE_SIZE: Final = 64
# A model with thoughts was accepted and ran, but not to the end of its thoughts.
_EXCERPT: Final = 40
_OUT_OF_TOKENS: Final = re.compile(r"output limit was reached|could not finish", re.IGNORECASE)


async def find_image_refusal(post: Post) -> str | None:
    """Return why the endpoint rejects a small white image, or None if it accepts it.

    Raises:
        RequestRejectedError: The endpoint rejects the request without the image as well.
    """
    buffer = io.BytesIO()
    Image.new("RGB", (_IMAGE_SIZE, _IMAGE_SIZE), "white").save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Describe the image."},
    ]
    try:
        await _ask(post, {"role": "user", "content": parts})
    except RequestRejectedError as error:
        await _ask(post, {"role": "user", "content": "Describe an image."})
        return str(error)
    return None


async def find_scoring(
    post: Post,
    *,
    choices: tuple[str, ...],
    method: Literal["auto", "token_ids", "top_logprobs"],
    name: str,
) -> Scoring:
    """Find how to request the log-probabilities of given answers from an endpoint.

    Args:
        post: Sends requests to the endpoint.
        choices: The answers.
        method: The only method to try, or "auto".
        name: Name of the endpoint's model in errors.

    Raises:
        AnswerTokenError: The server's tokenizer splits an answer into several tokens.
        CapabilityError: No method works, or the model begins its answers with thoughts.
        RequestRejectedError: The endpoint rejects requests without log-probabilities as well.
    """
    candidates: list[Scoring] = []
    if method != "top_logprobs":
        ids = await _choice_ids(post, choices, name)
        candidates += [Scoring(choices, token_ids=ids)] if ids else []
    if method != "token_ids":
        candidates += [Scoring(choices, n_top=n_top) for n_top in (20, 5)]
    reason = "it does not return the log-probabilities of given tokens"
    is_rejected = False
    for scoring in candidates:
        try:
            response = await post(CHAT, {"messages": [_TURN], **scoring.fields()})
            parse_scores(response, scoring)
        except (RequestRejectedError, MalformedResponseError) as error:
            reason = str(error).rstrip(".")
            is_rejected = is_rejected or isinstance(error, RequestRejectedError)
            continue
        if mark := thought_mark(response):
            raise _thought_error(name, mark)
        return scoring
    if is_rejected:
        await _ask(post, _TURN)
    raise CapabilityError(
        f"{name} returns no log-probabilities, so it cannot score answers: {reason}. Score with "
        "another backend (score.model.backend=huggingface) or serve the model with vLLM."
    )


async def ensure_adapter(endpoint: Endpoint, name: str, folder: Path) -> None:
    """Verify that an endpoint offers an adapter; load it if the server allows that.

    Args:
        endpoint: The server.
        name: Name of the adapter on the server.
        folder: Files of the adapter, under a path that the server can read.

    Raises:
        BackendError: The server neither offers the adapter nor loads it.
    """
    if name in await _model_names(endpoint):
        return
    reason = "not listed after loading it"
    try:
        body = {"lora_name": name, "lora_path": str(folder.resolve())}
        await endpoint.request("load_lora_adapter", body, dict, allow_text=True)
    except (RequestRejectedError, RetriesExhaustedError) as error:
        reason = str(error)
    if name not in await _model_names(endpoint):
        raise BackendError(
            f"The endpoint at {endpoint.name} does not offer the adapter {name} ({reason}). Start "
            f"the server with --enable-lora --lora-modules {name}={folder.resolve()}"
        )


async def _model_names(endpoint: Endpoint) -> set[str]:
    try:
        models = (await endpoint.request("models", None, dict)).get("data")
    except (RequestRejectedError, RetriesExhaustedError):
        return set()
    entries = models if isinstance(models, list) else []
    return {str(entry.get("id")) for entry in entries if isinstance(entry, dict)}


async def _ask(post: Post, turn: Mapping[str, object]) -> None:
    """Send one turn and raise `RequestRejectedError` if the endpoint does not run it."""
    try:
        await post(CHAT, {"messages": [turn], "max_tokens": 1, "temperature": 0})
    except RequestRejectedError as error:
        if not _OUT_OF_TOKENS.search(str(error)):
            raise


def _thought_error(name: str, mark: str) -> CapabilityError:
    return CapabilityError(
        f"{name} begins its answers with a thought ({mark}), so the first token does not answer "
        "yes or no. Turn thoughts off, for vLLM and SGLang with "
        "model.extra={chat_template_kwargs: {enable_thinking: false}}, or use another model."
    )


async def _choice_ids(post: Post, choices: tuple[str, ...], name: str) -> tuple[int, ...]:
    """Return the ids of the answers as first new token; empty if the server cannot tokenize.

    Each answer is tokenized where the chat template writes answers. Only this distinguishes "yes"
    from " yes".
    """
    try:
        opened, text = await _tokenize(post, [_TURN], open_answer=True)
        wholes = [
            await _tokenize(post, [_TURN, {"role": "assistant", "content": c}], open_answer=False)
            for c in choices
        ]
    except (RequestRejectedError, MalformedResponseError):
        return ()
    if opens_thought(text):
        raise _thought_error(name, text[-_EXCERPT:].strip())
    found = []
    for choice, (whole, _) in zip(choices, wholes, strict=True):
        added = whole[len(opened) :]
        if whole[: len(opened)] != opened or len(added) != 1:
            raise AnswerTokenError(
                f"The choice {choice!r} must be exactly one token after the rendered prompt, but "
                f"its token ids are {added}. Choose other words as answers."
            )
        found.append(added[0])
    return tuple(found)


async def _tokenize(
    post: Post, turns: list[dict[str, str]], *, open_answer: bool
) -> tuple[list[int], str]:
    """Return the token ids of rendered turns and, if the server returns tokens, their text."""
    fields = {
        "messages": turns,
        "add_generation_prompt": open_answer,
        "continue_final_message": not open_answer,
        "return_token_strs": True,
    }
    response = await post("../tokenize", fields)
    tokens, words = response.get("tokens"), response.get("token_strs")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise MalformedResponseError("The response has no list of tokens")
    return tokens, "".join(map(str, words)) if isinstance(words, list) else ""
