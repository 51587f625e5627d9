"""Questions to an endpoint about itself, asked once: what it reads, scores and offers.

No list of servers and versions could stay true, so `openai.py` tries what it needs on a tiny
prompt and believes the answer.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from PIL import Image

from mllm_msr.backends._http.chat_format import Scoring, read_scores
from mllm_msr.backends._http.client import Endpoint, MalformedError, RefusedError, UnansweredError
from mllm_msr.errors import AnswerTokenError, BackendError, CapabilityError

# Posts fields to a route and gives its JSON; the model's name is added to the fields.
Ask = Callable[[str, Mapping[str, object] | None], Awaitable[dict[str, Any]]]

_QUESTION: Final = {"role": "user", "content": "Answer only yes or no."}
_SIDE: Final = 64


async def reads_images(ask: Ask) -> bool:
    """Whether the endpoint takes a small white image."""
    buffer = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), "white").save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Describe the picture."},
    ]
    fields = {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}
    try:
        await ask("chat/completions", fields)
    except RefusedError:
        return False
    return True


async def scoring(
    ask: Ask,
    *,
    choices: tuple[str, ...],
    form: Literal["auto", "token_ids", "top_logprobs"],
    name: str,
) -> Scoring:
    """How the endpoint tells the probabilities of given answers.

    Args:
        ask: Asks the endpoint.
        choices: The answers.
        form: The only form to try, or "auto".
        name: What to call the endpoint's model in an error.

    Raises:
        AnswerTokenError: The server's tokenizer makes several tokens of an answer.
        CapabilityError: It tells them in no form.
    """
    forms: list[Scoring] = []
    if form != "top_logprobs":
        ids = await _choice_ids(ask, choices)
        forms += [Scoring(choices, token_ids=ids)] if ids else []
    if form != "token_ids":
        forms += [Scoring(choices, n_top=n_top) for n_top in (20, 5)]
    for tried in forms:
        try:
            fields = {"messages": [_QUESTION], **tried.fields()}
            read_scores(await ask("chat/completions", fields), tried)
        except (RefusedError, MalformedError):
            continue
        return tried
    raise CapabilityError(
        needed="an endpoint that gives the probabilities of given answers",
        received=f"{name}, which gives no log-probabilities",
        remedy="score with another engine (score.model.backend=huggingface), or serve with vLLM",
    )


async def offer_adapter(endpoint: Endpoint, name: str, folder: Path) -> None:
    """Make sure that an endpoint offers an adapter, loading it where the server allows that.

    Args:
        endpoint: The server.
        name: The adapter's name there.
        folder: Its files, which the server must see under the same path.

    Raises:
        BackendError: It does not offer it and will not load it.
    """
    if name in await _offered(endpoint):
        return
    reason = "not listed after loading it"
    try:
        body = {"lora_name": name, "lora_path": str(folder.resolve())}
        await endpoint.ask("load_lora_adapter", body, dict)
    except (RefusedError, UnansweredError) as error:
        reason = str(error)
    if name not in await _offered(endpoint):
        raise BackendError(
            needed=f"the adapter {name} at {endpoint.name}",
            received=f"an endpoint without it ({reason})",
            remedy=f"start the server with --enable-lora --lora-modules {name}={folder.resolve()}",
        )


async def _offered(endpoint: Endpoint) -> set[str]:
    try:
        listed = (await endpoint.ask("models", None, dict)).get("data", [])
    except (RefusedError, UnansweredError):
        return set()
    return {str(entry.get("id")) for entry in listed if isinstance(entry, dict)}


async def _choice_ids(ask: Ask, choices: tuple[str, ...]) -> tuple[int, ...]:
    """Ids of the answers as the first new token; empty where the server does not tokenise.

    The answer is written where the chat template writes answers: only that tells "yes" from
    " yes".
    """
    try:
        opened = await _tokens(ask, [_QUESTION], open_answer=True)
        wholes = [
            await _tokens(ask, [_QUESTION, {"role": "assistant", "content": c}], open_answer=False)
            for c in choices
        ]
    except (RefusedError, MalformedError):
        return ()
    found = []
    for choice, whole in zip(choices, wholes, strict=True):
        added = whole[len(opened) :]
        if whole[: len(opened)] != opened or len(added) != 1:
            raise AnswerTokenError(
                needed="answers of exactly one token after the rendered prompt",
                received=f"{choice!r} as the tokens {added}",
                remedy="choose other words for the answers",
            )
        found.append(added[0])
    return tuple(found)


async def _tokens(ask: Ask, turns: list[dict[str, str]], *, open_answer: bool) -> list[int]:
    fields = {
        "messages": turns,
        "add_generation_prompt": open_answer,
        "continue_final_message": not open_answer,
    }
    tokens = (await ask("../tokenize", fields)).get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise MalformedError("a reply without tokens")
    return tokens
