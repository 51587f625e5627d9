"""Tests of the scoring routes of vLLM and SGLang."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from endpoints import HttpRequest, HttpResponse, ModelServer, logprobs_response
from mllm_msr.backends._http.chat_format import Scoring
from mllm_msr.backends._http.responses import MalformedResponseError, parse_response
from mllm_msr.backends._http.scoring_routes import (
    ScoringRoute,
    UnscoredPromptError,
    find_disagreement,
    score_on_route,
    tokenize,
)
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.types import Message, Prompt, TextPart
from scoring_servers import NO, YES, ScoringServer, log_probs, render

Kind = Literal["generative_scoring", "score"]
SERVERS: Mapping[Kind, str] = {"generative_scoring": "vllm", "score": "sglang"}
CHAT = Scoring(("yes", "no"), n_top=20)


class Client:
    """Sends requests directly to a request handler, and counts them by path."""

    def __init__(self, server: Callable[[HttpRequest], HttpResponse], model: str = "tiny") -> None:
        self._server = server
        self._model = model
        self.paths: list[str] = []

    async def __call__(self, route: str, fields: Mapping[str, object]) -> dict[str, Any]:
        path = route.removeprefix("..") if route.startswith("..") else f"/v1/{route}"
        self.paths.append(path)
        response = self._server(HttpRequest(path, {"model": self._model, **fields}, {}))
        assert isinstance(response.body, dict)
        return parse_response(response.status, {}, json.dumps(response.body).encode())


def score(server: Callable[[HttpRequest], HttpResponse], kind: Kind, text: str) -> Any:
    route = ScoringRoute(kind, (YES, NO))
    turns = [{"role": "user", "content": text}]
    return asyncio.run(score_on_route(Client(server), route, turns))


def disagreement(server: ScoringServer, kind: Kind, model: str = "tiny") -> str | None:
    route = ScoringRoute(kind, (YES, NO))
    return asyncio.run(find_disagreement(Client(server, model), route, CHAT))


@pytest.mark.parametrize("kind", SERVERS)
def test_scores_are_those_of_the_rendered_prompt(kind: Kind) -> None:
    found = score(ScoringServer(SERVERS[kind]), kind, "Is the lantern calm?")
    tokens = render([{"role": "user", "content": "Is the lantern calm?"}])
    expected = log_probs(tokens)
    assert found.log_probs == pytest.approx((expected[YES], expected[NO]), abs=1e-9)
    assert (found.prompt_tokens, found.upper_bound, found.error) == (len(tokens), False, None)


def test_vllm_is_asked_once_per_answer_and_sglang_once() -> None:
    for kind, n_requests in (("generative_scoring", 2), ("score", 1)):
        client = Client(ScoringServer(SERVERS[kind]))  # type: ignore[index]
        route = ScoringRoute(kind, (YES, NO))  # type: ignore[arg-type]
        asyncio.run(score_on_route(client, route, [{"role": "user", "content": "film"}]))
        assert len(client.paths) == 1 + n_requests


@pytest.mark.parametrize("kind", SERVERS)
def test_scores_equal_those_of_the_same_weights_run_locally(
    kind: Kind, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    server = ModelServer(tiny_checkpoint("llava_next"), tmp_path)
    local = HuggingFaceBackend(str(tiny_checkpoint("llava_next")), dtype="float32", device="cpu")
    text = "Would this user watch a calm film about a lantern? Answer only yes or no."
    prompt = Prompt((Message("user", (TextPart(text),)),))
    ((_, expected),) = local.score([prompt], ("yes", "no"))
    client = Client(server, ModelServer.name)
    turns = [{"role": "user", "content": text}]
    ids = []
    for answer in ("yes", "no"):
        answered = [*turns, {"role": "assistant", "content": answer}]
        ids.append(asyncio.run(tokenize(client, answered, opens_answer=False)).tokens[-1])
    found = asyncio.run(score_on_route(client, ScoringRoute(kind, tuple(ids)), turns))
    assert found.log_probs == pytest.approx(expected.log_probs, abs=1e-4)
    assert found.prompt_tokens == expected.prompt_tokens


def test_a_prompt_that_vllm_would_shorten_is_not_scored() -> None:
    server = ScoringServer("vllm", max_model_len=5)
    with pytest.raises(UnscoredPromptError, match="has 7 tokens, the limit is 5"):
        score(server, "generative_scoring", "a b c d")


def test_a_prompt_of_which_the_server_reads_another_length_is_not_scored() -> None:
    with pytest.raises(UnscoredPromptError, match="reads 8 tokens instead of 6"):
        score(ScoringServer("sglang", delimiter=9), "score", "a b c")


def test_a_probability_that_is_not_representable_is_not_scored() -> None:
    response = HttpResponse({"scores": [[0.0, 0.5]], "usage": None})
    with pytest.raises(UnscoredPromptError, match="An answer has probability 0"):
        score(ScoringServer("sglang", route=response), "score", "a b c")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("generative_scoring", {}),
        ("generative_scoring", {"scores": [[0.5, 0.5]]}),
        ("generative_scoring", {"data": []}),
        ("generative_scoring", {"data": [{"score": 0.5}, {"score": 0.5}]}),
        ("generative_scoring", {"data": [{"score": "0.5"}]}),
        ("generative_scoring", {"data": [{"score": True}]}),
        ("generative_scoring", {"data": [{"score": math.nan}]}),
        ("generative_scoring", {"data": [{"score": -0.1}]}),
        ("generative_scoring", {"data": [{"score": 1.5}]}),
        ("score", {}),
        ("score", {"data": [{"score": 0.5}]}),
        ("score", {"scores": 0.5}),
        ("score", {"scores": [0.5, 0.5]}),
        ("score", {"scores": [[0.5]]}),
        ("score", {"scores": [[0.5, 0.5], [0.5, 0.5]]}),
        ("score", {"scores": [[0.5, None]]}),
    ],
)
def test_a_response_with_another_format_is_malformed(kind: Kind, body: dict[str, Any]) -> None:
    server = ScoringServer(SERVERS[kind], route=HttpResponse(body))
    with pytest.raises(MalformedResponseError):
        score(server, kind, "a b c")
    assert disagreement(server, kind) is not None


@pytest.mark.parametrize("kind", SERVERS)
def test_a_route_agrees_if_prompts_and_scores_are_equal(kind: Kind) -> None:
    assert disagreement(ScoringServer(SERVERS[kind]), kind) is None


@pytest.mark.parametrize("kind", SERVERS)
def test_a_route_that_renders_other_prompts_disagrees(kind: Kind) -> None:
    found = disagreement(ScoringServer(SERVERS[kind], hidden_tokens=(5,)), kind)
    assert found is not None
    assert "chat requests have 9 tokens" in found


def test_a_route_that_ignores_adapters_disagrees() -> None:
    server = ScoringServer("sglang", base_only=True)
    assert disagreement(server, "score") is None
    assert "differs by" in str(disagreement(server, "score", "tuned"))


def test_answers_that_chat_requests_do_not_list_must_be_below_the_listed_ones() -> None:
    server = ScoringServer("vllm")
    likely = ScoringRoute("generative_scoring", (YES, NO))
    chat = Scoring(("maybe", "never"), n_top=20)
    assert "of 'maybe' differs by" in str(
        asyncio.run(find_disagreement(Client(server), likely, chat))
    )
    tokens = render([{"role": "user", "content": "Answer only yes or no."}])
    values = log_probs(tokens)
    least = min(range(len(values)), key=values.__getitem__)
    route = ScoringRoute("generative_scoring", (YES, least))
    chat = Scoring(("yes", "maybe"), n_top=20)
    assert asyncio.run(find_disagreement(Client(server), route, chat)) is None


def test_without_listed_words_nothing_can_be_compared() -> None:
    server = ScoringServer("vllm")
    listed = logprobs_response({"\u2581": -0.1, "<|x|>": -9.0}, n_prompt=0)

    def handle(request: HttpRequest) -> HttpResponse:
        return listed if request.path == "/v1/chat/completions" else server(request)

    route = ScoringRoute("generative_scoring", (8, 8))  # improbable, below the bound
    found = asyncio.run(find_disagreement(Client(handle), route, CHAT))
    assert found == "chat requests list no words to compare with"


@pytest.mark.parametrize("tokens", [None, "12", [1.0], [True], [[1, 2]]])
def test_token_ids_are_integers(tokens: object) -> None:
    async def post(route: str, fields: Mapping[str, object]) -> dict[str, Any]:
        assert (route, fields["continue_final_message"]) == ("../tokenize", False)
        return {"tokens": tokens}

    with pytest.raises(MalformedResponseError, match="no list of tokens"):
        asyncio.run(tokenize(post, [{"role": "user", "content": "a"}]))


@pytest.mark.parametrize(
    ("limit", "expected"), [(4096, 4096), (None, math.inf), (0, math.inf), (True, math.inf)]
)
def test_the_limit_of_a_server_is_optional(limit: object, expected: float) -> None:
    async def post(route: str, fields: Mapping[str, object]) -> dict[str, Any]:
        assert (route, fields["return_token_strs"]) == ("../tokenize", True)
        return {"tokens": [1, 2], "token_strs": ["<s>", "a"], "max_model_len": limit}

    found = asyncio.run(tokenize(post, [{"role": "user", "content": "a"}], with_text=True))
    assert found == ([1, 2], "<s>a", expected)
