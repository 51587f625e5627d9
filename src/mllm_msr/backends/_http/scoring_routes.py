"""Scoring routes of servers: `/generative_scoring` of vLLM and `/v1/score` of SGLang.

They return the probabilities of given tokens after a prompt, so that no answer is only bounded. A
prompt is sent as token ids, which the server's own `/tokenize` renders with its chat template; the
routes read no images. `find_disagreement` compares a route with chat requests before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from mllm_msr.backends._http.chat_format import Scoring, listed_log_probs, token_usage
from mllm_msr.backends._http.client import RetriesExhaustedError
from mllm_msr.backends._http.responses import MalformedResponseError, RequestRejectedError
from mllm_msr.types import ChoiceScores

# Sends fields to a route, as all requests are sent (with the model's name and `extra`), and returns
# the response's JSON.
Post = Callable[[str, Mapping[str, object]], Awaitable[dict[str, Any]]]

CHAT: Final = "chat/completions"
TOKENIZE: Final = "../tokenize"

# Together they list both answers among the most probable tokens, if the model follows them.
_QUESTIONS: Final = ("Answer only yes or no.", "Answer only yes.", "Answer only no.")
# Largest difference of log-probabilities. Requests with the same tokens differ by rounding: in
# bfloat16 by about one unit of the last place of a logit, and usually not at all.
_TOLERANCE: Final = 0.05
# Sums of float32 probabilities may exceed 1 by rounding.
_ROUNDING: Final = 1e-3


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
    tokens, limit = await _render(post, turns)
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
    compared: set[str] = set()
    try:
        for question in _QUESTIONS:
            turns = [{"role": "user", "content": question}]
            scores = await score_on_route(post, route, turns)
            response = await post(CHAT, {"messages": turns, **chat.fields()})
            read, _ = token_usage(response)
            if read not in (0, scores.prompt_tokens):
                return f"chat requests have {read} tokens, {route.name} {scores.prompt_tokens}"
            listed, least = listed_log_probs(response, chat.choices)
            for choice, value, found in zip(chat.choices, listed, scores.log_probs, strict=True):
                difference = found - least if value is None else abs(found - value)
                if not difference <= _TOLERANCE:
                    return f"its log-probability of {choice!r} differs by {difference:.2g}"
                if value is not None:
                    compared.add(choice)
    except (
        UnscoredPromptError,
        RequestRejectedError,
        MalformedResponseError,
        RetriesExhaustedError,
    ) as error:
        return str(error).rstrip(".")
    if missing := [choice for choice in chat.choices if choice not in compared]:
        return f"chat requests list no log-probability of {missing} to compare with"
    return None


async def _render(post: Post, turns: Sequence[Mapping[str, object]]) -> tuple[list[int], float]:
    """Return the token ids of turns up to the answer, and the limit that the server states."""
    response = await post(
        TOKENIZE,
        {"messages": turns, "add_generation_prompt": True, "continue_final_message": False},
    )
    tokens, limit = parse_tokens(response), response.get("max_model_len")
    if len(tokens) < 2:  # a query and an item
        raise MalformedResponseError(f"The prompt has {len(tokens)} tokens")
    return tokens, limit if type(limit) is int and limit > 0 else math.inf


def parse_tokens(response: Mapping[str, Any]) -> list[int]:
    """Return the token ids in a response of `/tokenize`.

    Raises:
        MalformedResponseError: The response has another format.
    """
    tokens = response.get("tokens")
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise MalformedResponseError("The response has no list of tokens")
    return tokens


def _log(probability: object) -> float:
    """Return the logarithm of a probability; 0 is too small to be represented."""
    if not isinstance(probability, int | float) or isinstance(probability, bool):
        raise MalformedResponseError(f"A probability is {str(probability)[:40]!r}, not a number")
    if not 0 <= probability <= 1 + _ROUNDING:
        raise MalformedResponseError(f"A probability is {str(probability)[:40]}, not in [0, 1]")
    if probability == 0:
        raise UnscoredPromptError("An answer has probability 0")
    return min(math.log(probability), 0.0)
