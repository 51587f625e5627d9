"""Probes of an endpoint's capabilities: images, scoring and adapters, each tested once.

A list of servers and versions would become outdated. The backend `openai` instead tries the
required features on a tiny prompt.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from PIL import Image

from mllm_msr.backends._http.chat_format import Scoring, parse_scores
from mllm_msr.backends._http.client import (
    Endpoint,
    MalformedResponseError,
    RequestRejectedError,
    RetriesExhaustedError,
)
from mllm_msr.errors import AnswerTokenError, BackendError, CapabilityError

# Sends fields to a route, plus the model's name, and returns the response's JSON.
Post = Callable[[str, Mapping[str, object]], Awaitable[dict[str, Any]]]

_TURN: Final = {"role": "user", "content": "Answer only yes or no."}
_IMAGE_SIZE: Final = 64


async def supports_images(post: Post) -> bool:
    """Return whether the endpoint accepts a small white image."""
    buffer = io.BytesIO()
    Image.new("RGB", (_IMAGE_SIZE, _IMAGE_SIZE), "white").save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Describe the image."},
    ]
    fields = {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}
    try:
        await post("chat/completions", fields)
    except RequestRejectedError:
        return False
    return True


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
        CapabilityError: No method works.
    """
    candidates: list[Scoring] = []
    if method != "top_logprobs":
        ids = await _choice_ids(post, choices)
        candidates += [Scoring(choices, token_ids=ids)] if ids else []
    if method != "token_ids":
        candidates += [Scoring(choices, n_top=n_top) for n_top in (20, 5)]
    for scoring in candidates:
        try:
            fields = {"messages": [_TURN], **scoring.fields()}
            parse_scores(await post("chat/completions", fields), scoring)
        except (RequestRejectedError, MalformedResponseError):
            continue
        return scoring
    raise CapabilityError(
        f"{name} returns no log-probabilities, so it cannot score answers. Score with another "
        "backend (score.model.backend=huggingface) or serve the model with vLLM."
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
        await endpoint.request("load_lora_adapter", body, dict)
    except (RequestRejectedError, RetriesExhaustedError) as error:
        reason = str(error)
    if name not in await _model_names(endpoint):
        raise BackendError(
            f"The endpoint at {endpoint.name} does not offer the adapter {name} ({reason}). Start "
            f"the server with --enable-lora --lora-modules {name}={folder.resolve()}"
        )


async def _model_names(endpoint: Endpoint) -> set[str]:
    try:
        models = (await endpoint.request("models", None, dict)).get("data", [])
    except (RequestRejectedError, RetriesExhaustedError):
        return set()
    return {str(entry.get("id")) for entry in models if isinstance(entry, dict)}


async def _choice_ids(post: Post, choices: tuple[str, ...]) -> tuple[int, ...]:
    """Return the ids of the answers as first new token; empty if the server cannot tokenize.

    Each answer is tokenized where the chat template writes answers. Only this distinguishes "yes"
    from " yes".
    """
    try:
        opened = await _tokenize(post, [_TURN], open_answer=True)
        wholes = [
            await _tokenize(post, [_TURN, {"role": "assistant", "content": c}], open_answer=False)
            for c in choices
        ]
    except (RequestRejectedError, MalformedResponseError):
        return ()
    found = []
    for choice, whole in zip(choices, wholes, strict=True):
        added = whole[len(opened) :]
        if whole[: len(opened)] != opened or len(added) != 1:
            raise AnswerTokenError(
                f"The choice {choice!r} must be exactly one token after the rendered prompt, but "
                f"its token ids are {added}. Choose other words as answers."
            )
        found.append(added[0])
    return tuple(found)


async def _tokenize(post: Post, turns: list[dict[str, str]], *, open_answer: bool) -> list[int]:
    fields = {
        "messages": turns,
        "add_generation_prompt": open_answer,
        "continue_final_message": not open_answer,
    }
    tokens = (await post("../tokenize", fields)).get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise MalformedResponseError("The response has no list of tokens")
    return tokens
