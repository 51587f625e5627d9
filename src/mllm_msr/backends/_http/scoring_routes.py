"""Scoring routes of servers: `/generative_scoring` of vLLM and `/v1/score` of SGLang.

They return the probabilities of given tokens after a prompt, so that no answer is only bounded. A
prompt is sent as token ids, which the server's own `/tokenize` renders with its chat template; the
routes read no images. `find_disagreement` compares a route with chat requests before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from mllm_msr.backends._http.chat_format import (
    ROUNDING,
    Scoring,
    listed_log_probs,
    listed_tokens,
    token_usage,
)
from mllm_msr.backends._http.client import RetriesExhaustedError
from mllm_msr.backends._http.responses import MalformedResponseError, RequestRejectedError
from mllm_msr.types import ChoiceScores

# Sends fields to a route, as all requests are sent (with the model's name and `extra`), and returns
# the response's JSON.
Post = Callable[[str, Mapping[str, object]], Awaitable[dict[str, Any]]]

CHAT: Final = "chat/completions"
_TOKENIZE: Final = "../tokenize"

_QUESTIONS: Final = ("Answer only yes or no.", "Would you watch a calm film about a lantern?")
# Most words of which the log-probabilities are compared, besides the answers.
_MAX_WORDS: Final = 4
# Largest difference of log-probabilities. Requests with the same tokens differ by rounding: in
# bfloat16 by about one unit of the last place of a logit, and usually not at all.
_TOLERANCE: Final = 0.05


class Rendering(NamedTuple):
    """Turns as the server's chat template renders them.

    Attributes:
        tokens: Token ids.
        text: Their text, if it was asked for and the server returns it, else empty.
        limit: Most tokens of a prompt and its answer, as far as the server states it.
    """

    tokens: list[int]
    text: str
    limit: float

    def after(self, beginning: Rendering) -> list[int]:
        """Return the tokens after a beginning; empty if this rendering begins differently."""
        n_tokens = len(beginning.tokens)
        return self.tokens[n_tokens:] if self.tokens[:n_tokens] == beginning.tokens else []


class UnscoredPromptError(Exception):
    """A scoring route did not score the whole prompt, so it has to be scored by a chat request."""


@dataclass(frozen=True, slots=True)
class ScoringRoute:
    """A route that scores given tokens after a prompt.

    Attributes:
        kind: Name of the route: that of vLLM, or that of SGLang.
        token_ids: Token ids of the answers.
    """

    kind: Literal["generative_scoring", "score"]
    token_ids: tuple[int, ...]

    @property
    def path(self) -> str:
        """Return the path relative to the endpoint's address."""
        return "../generative_scoring" if self.kind == "generative_scoring" else self.kind

    @property
    def name(self) -> str:
        """Return the name of the route in messages."""
        return f"/{self.kind}"

    def label_groups(self) -> list[list[int]]:
        """Return the token ids of each request: vLLM only returns the value of the first one."""
        ids = list(self.token_ids)
        return [[i] for i in ids] if self.kind == "generative_scoring" else [ids]

    def parse(self, response: Mapping[str, Any]) -> list[object]:
        """Return the probabilities in a response to one prompt.

        Raises:
            MalformedResponseError: The response has another format.
        """
        match self.kind, response:
            case "generative_scoring", {"data": [{"score": score}]}:
                return [score]
            case "score", {"scores": [[*scores]]}:
                return scores
        raise MalformedResponseError(f"The response of {self.name} has no scores of one prompt")


async def score_on_route(
    post: Post, route: ScoringRoute, turns: Sequence[Mapping[str, object]]
) -> ChoiceScores:
    """Score turns without images.

    Args:
        post: Sends requests to the endpoint.
        route: The route.
        turns: Messages of a chat request.

    Raises:
        UnscoredPromptError: The route would shorten the prompt, or an answer has probability 0.
        RequestRejectedError: The endpoint rejects a request.
        MalformedResponseError: A response has another format.
    """
    tokens, _, limit = await tokenize(post, turns)
    if len(tokens) < 2:  # a query and an item
        raise MalformedResponseError(f"The prompt has {len(tokens)} tokens")
    # vLLM shortens longer prompts without an error.
    if len(tokens) >= limit:
        raise UnscoredPromptError(f"The prompt has {len(tokens)} tokens, the limit is {limit}")
    log_probs: list[float] = []
    for labels in route.label_groups():
        response = await post(
            route.path,
            {
                "query": tokens[:-1],
                "items": [tokens[-1:]],
                "label_token_ids": labels,
                "apply_softmax": False,
                "item_first": False,
            },
        )
        read, _ = token_usage(response)
        if read not in (0, len(tokens)):
            raise UnscoredPromptError(f"{route.name} reads {read} tokens instead of {len(tokens)}")
        values = [_log(value) for value in route.parse(response)]
        if len(values) != len(labels):
            raise MalformedResponseError(f"{route.name} returns {len(values)} probabilities")
        log_probs += values
    return ChoiceScores(tuple(log_probs), len(tokens))


async def find_disagreement(post: Post, route: ScoringRoute, chat: Scoring) -> str | None:
    """Return why a scoring route cannot replace chat requests, or None if their scores agree.

    Args:
        post: Sends requests to the endpoint.
        route: The route.
        chat: Scoring by the most probable tokens of chat requests.
    """
    try:
        for question in _QUESTIONS:
            turns = [{"role": "user", "content": question}]
            if reason := await _compare(post, route, chat, turns):
                return reason
    except (
        UnscoredPromptError,
        RequestRejectedError,
        MalformedResponseError,
        RetriesExhaustedError,
    ) as error:
        return str(error).rstrip(".")
    return None


async def tokenize(
    post: Post,
    turns: Sequence[Mapping[str, object]],
    *,
    opens_answer: bool = True,
    with_text: bool = False,
) -> Rendering:
    """Return turns as the server renders them.

    Args:
        post: Sends requests to the endpoint.
        turns: Messages of a chat request.
        opens_answer: Whether an answer follows; otherwise the last turn is one that is continued.
        with_text: Whether to ask for the text of the tokens.

    Raises:
        RequestRejectedError: The server cannot render turns.
        MalformedResponseError: The response has another format.
    """
    fields: dict[str, object] = {
        "messages": turns,
        "add_generation_prompt": opens_answer,
        "continue_final_message": not opens_answer,
    }
    response = await post(_TOKENIZE, fields | ({"return_token_strs": True} if with_text else {}))
    tokens, words = response.get("tokens"), response.get("token_strs")
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise MalformedResponseError("The response has no list of tokens")
    text = "".join(map(str, words)) if isinstance(words, list) else ""
    limit = response.get("max_model_len")
    return Rendering(tokens, text, limit if type(limit) is int and limit > 0 else math.inf)


async def _compare(
    post: Post, route: ScoringRoute, chat: Scoring, turns: Sequence[Mapping[str, object]]
) -> str | None:
    """Compare the log-probabilities of the answers, and of words that a chat request lists."""
    scores = await score_on_route(post, route, turns)  # first, since servers may lack the route
    response = await post(CHAT, {"messages": turns, **chat.fields()})
    n_read, _ = token_usage(response)
    if n_read not in (0, scores.prompt_tokens):
        return f"chat requests have {n_read} tokens, {route.name} {scores.prompt_tokens}"
    entries = listed_tokens(response)
    # Only an answer that is not listed has to be compared with a bound. Words are always listed.
    listed, least = listed_log_probs(response, chat.choices)
    pairs = [
        (choice, found, [least if value is None else value], value is None)
        for choice, found, value in zip(chat.choices, scores.log_probs, listed, strict=True)
    ]
    words = await _listed_words(post, turns, [token for token, _ in entries])
    if not words:
        return "chat requests list no words to compare with"
    scores = await score_on_route(post, ScoringRoute(route.kind, tuple(words.values())), turns)
    pairs += [
        (word, found, [value for token, value in entries if token == word], False)
        for word, found in zip(words, scores.log_probs, strict=True)
    ]
    for word, found, values, is_bound in pairs:
        difference = min((found - value if is_bound else abs(found - value)) for value in values)
        if not difference <= _TOLERANCE:
            return f"its log-probability of {word!r} differs by {difference:.2g}"
    return None


async def _listed_words(
    post: Post, turns: Sequence[Mapping[str, object]], listed: Sequence[str]
) -> dict[str, int]:
    """Return the ids of listed tokens that are words and have one id as the answer."""
    opened = await tokenize(post, turns)
    words = [word for word in dict.fromkeys(listed) if word.isalnum()]
    ids: dict[str, int] = {}
    for word in words[:_MAX_WORDS]:
        answered = [*turns, {"role": "assistant", "content": word}]
        added = (await tokenize(post, answered, opens_answer=False)).after(opened)
        if len(added) == 1:
            ids[word] = added[0]
    return ids


def _log(probability: object) -> float:
    """Return the logarithm of a probability; 0 is too small to be represented."""
    if not isinstance(probability, int | float) or isinstance(probability, bool):
        raise MalformedResponseError(f"A probability is {str(probability)[:40]!r}, not a number")
    if not 0 <= probability <= 1 + ROUNDING:
        raise MalformedResponseError(f"A probability is {str(probability)[:40]}, not in [0, 1]")
    if probability == 0:
        raise UnscoredPromptError("An answer has probability 0")
    return min(math.log(probability), 0.0)
