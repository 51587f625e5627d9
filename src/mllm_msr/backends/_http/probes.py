"""Probes of an endpoint's capabilities: images, scoring and adapters, each tested once.

A list of servers and versions would become outdated. The backend `openai` instead tries the
required features on a tiny prompt.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from PIL import Image

from mllm_msr.backends._http.chat_format import (
    Scoring,
    parse_completion,
    parse_scores,
    thought_mark,
)
from mllm_msr.backends._http.client import Endpoint, RetriesExhaustedError
from mllm_msr.backends._http.responses import (
    MalformedResponseError,
    RequestRejectedError,
    TransientError,
)
from mllm_msr.backends._http.scoring_routes import (
    CHAT,
    Post,
    ScoringRoute,
    find_disagreement,
    tokenize,
)
from mllm_msr.errors import AnswerTokenError, BackendError, CapabilityError
from mllm_msr.prompts.thoughts import closes_thought, opens_thought

_TURN: Final = {"role": "user", "content": "Answer only yes or no."}
_IMAGE_SIZE: Final = 64
# Enough for the thoughts about the question above.
_THOUGHT_TOKENS: Final = 1024
_PROBE_ERRORS: Final = (
    RequestRejectedError,
    MalformedResponseError,
    RetriesExhaustedError,
    TransientError,
)
# A model with thoughts was accepted and ran, but not to the end of its thoughts.
_EXCERPT: Final = 40
_OUT_OF_TOKENS: Final = re.compile(r"output limit was reached|could not finish", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """How an endpoint is asked for the log-probabilities of answers.

    Attributes:
        chat: Scoring by chat requests: of every prompt without `route`, else of those with images.
        route: Scoring route for prompts without images.
        detail: Which method is used and why, in a few words.
    """

    chat: Scoring
    route: ScoringRoute | None = None
    detail: str = ""


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
    has_adapter: bool = False,
) -> ScoringPlan:
    """Find how to request the log-probabilities of given answers from an endpoint.

    In this order: one chat request for given tokens, which also reads images; a scoring route, if
    its scores equal those of chat requests; the most probable tokens of a chat request.

    Args:
        post: Sends requests to the endpoint.
        choices: The answers.
        method: The only method to try, or "auto".
        name: Name of the endpoint's model in errors.
        has_adapter: Whether the requested model is an adapter.

    Raises:
        AnswerTokenError: The server's tokenizer splits an answer into several tokens.
        CapabilityError: No method works, or the model begins its answers with thoughts.
        RequestRejectedError: The endpoint rejects requests without log-probabilities as well.
    """
    ids, reason = ((), "") if method == "top_logprobs" else await _choice_ids(post, choices, name)
    given = [Scoring(choices, token_ids=ids)] if ids else []
    probable = [] if method == "token_ids" else [Scoring(choices, n_top=n) for n in (20, 5)]
    rejections: list[RequestRejectedError] = []
    for scoring in [*given, *probable]:
        try:
            response = await post(CHAT, {"messages": [_TURN], **scoring.fields()})
            parse_scores(response, scoring)
        except (RequestRejectedError, MalformedResponseError) as error:
            reason = str(error).rstrip(".")
            rejections += [error] if isinstance(error, RequestRejectedError) else []
            continue
        if mark := thought_mark(response):
            raise _thought_error(name, mark)
        if scoring.token_ids:
            return ScoringPlan(scoring, None, "exact, by logprob_token_ids")
        routes = [] if method != "auto" else _routes(ids, has_adapter=has_adapter)
        return await _compare_routes(post, scoring, routes, reason)
    if rejections:
        await _ask(post, _TURN)
    reason = reason or "it does not return the log-probabilities of given tokens"
    raise CapabilityError(
        f"{name} returns no log-probabilities, so it cannot score answers: {reason}. Score with "
        "another backend (score.model.backend=huggingface) or serve the model with vLLM."
    )


def _routes(ids: tuple[int, ...], *, has_adapter: bool) -> list[ScoringRoute]:
    """Return the scoring routes to try."""
    if not ids:
        return []
    routes = [ScoringRoute("generative_scoring", ids)]
    # The route of SGLang ignores adapters.
    return routes if has_adapter else [*routes, ScoringRoute("score", ids)]


async def _compare_routes(
    post: Post, chat: Scoring, routes: Sequence[ScoringRoute], reason: str
) -> ScoringPlan:
    """Return a plan with the first route that agrees with chat requests, or without a route."""
    reasons = [f"logprob_token_ids: {reason}"] if reason else []
    for route in routes:
        disagreement = await find_disagreement(post, route, chat)
        if disagreement is None:
            detail = f"exact by {route.name}, with images by top_logprobs"
            return ScoringPlan(chat, route, "; ".join([detail, *reasons]))
        reasons.append(f"{route.name}: {disagreement}")
    detail = f"{chat.n_top} most probable tokens, other answers are bounded"
    return ScoringPlan(chat, None, "; ".join([detail, *reasons]))


async def opens_thoughts(post: Post) -> bool:
    """Return whether the chat template ends prompts within a thought that the server returns.

    If the server does not return the rendered prompt, the answer to a simple question shows it.
    """
    try:
        opened = await tokenize(post, [_TURN], with_text=True)
        if opened.text:
            return opens_thought(opened.text)
    except _PROBE_ERRORS:
        pass
    fields = {"messages": [_TURN], "max_tokens": _THOUGHT_TOKENS, "temperature": 0}
    try:
        return closes_thought(parse_completion(await post(CHAT, fields)).text)
    except _PROBE_ERRORS:
        return False


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


async def _choice_ids(
    post: Post, choices: tuple[str, ...], name: str
) -> tuple[tuple[int, ...], str]:
    """Return the ids of the answers as first new token; without ids, return the reason.

    Each answer is tokenized where the chat template writes answers. Only this distinguishes "yes"
    from " yes".
    """
    try:
        opened = await tokenize(post, [_TURN], with_text=True)
        wholes = [
            await tokenize(post, [_TURN, {"role": "assistant", "content": c}], opens_answer=False)
            for c in choices
        ]
    except (RequestRejectedError, MalformedResponseError) as error:
        return (), f"the server does not tokenize ({str(error).rstrip('.')})"
    if opens_thought(opened.text):
        raise _thought_error(name, opened.text[-_EXCERPT:].strip())
    found = []
    for choice, whole in zip(choices, wholes, strict=True):
        added = whole.after(opened)
        if len(added) != 1:
            raise AnswerTokenError(
                f"The choice {choice!r} must be exactly one token after the rendered prompt, but "
                f"its token ids are {added}. Choose other words as answers."
            )
        found.append(added[0])
    return tuple(found), ""
