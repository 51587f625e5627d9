"""Tests of the choice between scoring methods, against servers on loopback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clocks import FakeClock
from endpoints import HttpResponse, serve
from mllm_msr.backends.openai import OpenAIBackend
from mllm_msr.types import ChoiceScores, ImagePart, Message, Prompt, TextPart
from scoring_servers import NO, YES, ScoringServer, log_probs, render

KINDS = ("vllm", "sglang")
PATHS = {"vllm": "/generative_scoring", "sglang": "/v1/score"}
TEXT = "A calm lantern for a quiet film."


def opened(url: str, **more: Any) -> OpenAIBackend:
    options: dict[str, Any] = {"timing": FakeClock().timing, "key_variable": "NO_KEY"}
    return OpenAIBackend(more.pop("checkpoint", "tiny"), url=url, **(options | more))


def prompt(text: str = TEXT, *images: Path, trimmable: int = 0) -> Prompt:
    parts = (*map(ImagePart, images), TextPart(text, trimmable=trimmable))
    return Prompt((Message("user", parts),))


def score(backend: OpenAIBackend, *prompts: Prompt) -> list[ChoiceScores]:
    found = dict(backend.score(prompts or [prompt()], ("yes", "no")))
    return [found[index] for index in range(len(found))]


def exact(text: str = TEXT) -> Any:
    values = log_probs(render([{"role": "user", "content": text}]))
    return pytest.approx((values[YES], values[NO]), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scoring_route_gives_the_exact_scores_of_unlisted_answers(kind: str) -> None:
    with serve(ScoringServer(kind)) as server:
        (bound,) = score(opened(server.url, scoring="top_logprobs"))
        assert bound.error is not None or bound.upper_bound
        backend = opened(server.url)
        (found,) = score(backend)
        assert (found.log_probs, found.upper_bound) == (exact(), False)
        assert f"exact by {PATHS[kind].removeprefix('/v1')}, " in backend.capabilities.scoring
        assert backend.fingerprint == "openai:tiny"


def test_log_probabilities_of_given_tokens_are_preferred() -> None:
    with serve(ScoringServer("vllm", logprob_token_ids=True)) as server:
        backend = opened(server.url)
        assert score(backend)[0].log_probs == exact()
        assert backend.capabilities.scoring == "exact, by logprob_token_ids"
    assert "/generative_scoring" not in server.paths()


@pytest.mark.parametrize("kind", KINDS)
def test_the_method_is_probed_once(kind: str) -> None:
    with serve(ScoringServer(kind)) as server:
        backend = opened(server.url)
        score(backend)
        n_probes = len(server.history)
        score(backend, *(prompt(f"film {n}") for n in range(4)))
        n_requests = {"vllm": 3, "sglang": 2}[kind]
        assert len(server.history) == n_probes + 4 * n_requests


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_with_images_are_scored_by_chat_requests(kind: str, images: Sequence[Path]) -> None:
    with serve(ScoringServer(kind)) as server:
        backend = opened(server.url, images=True)
        score(backend)
        before = server.paths().count(PATHS[kind])
        (found,) = score(backend, prompt(TEXT, images[0]))
        assert server.paths()[-1] == "/v1/chat/completions"
        assert server.paths().count(PATHS[kind]) == before
        assert found.upper_bound or found.error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"route": HttpResponse({"detail": "Not Found"}, status=404)}, "status 404"),
        ({"route": HttpResponse({"detail": "Method Not Allowed"}, status=405)}, "status 405"),
        ({"route": HttpResponse({"error": {"message": "no"}}, status=501)}, "status 501"),
        ({"route": HttpResponse(b"Internal Server Error", status=500)}, "status 500"),
        ({"route": HttpResponse(b"<html></html>")}, "HTML page"),
        ({"route": HttpResponse({"results": []})}, "has no scores of one prompt"),
        ({"hidden_tokens": (5,)}, "chat requests have 9 tokens"),
        ({"delimiter": 9}, "tokens instead of"),
        ({"renders": False}, "does not tokenize"),
    ],
)
def test_a_route_that_cannot_be_used_is_not_used(
    kind: str, fault: dict[str, Any], reason: str
) -> None:
    with serve(ScoringServer(kind, **fault)) as server:
        backend = opened(server.url)
        detail = backend.capabilities.scoring
        assert detail.startswith("20 most probable tokens, other answers are bounded; ")
        assert reason in detail
        (found,) = score(backend, prompt("Answer only yes or no."))
    tokens = [
        *fault.get("hidden_tokens", ()),
        *render([{"role": "user", "content": "Answer only yes or no."}]),
    ]
    values = log_probs(tokens)
    assert found.log_probs == pytest.approx((values[YES], values[NO]))


def test_the_route_of_sglang_is_not_used_for_adapters() -> None:
    with serve(ScoringServer("sglang", base_only=True)) as server:
        for more in ({"adapter": "tuned"}, {"checkpoint": "tiny:tuned"}):
            assert opened(server.url, **more).capabilities.scoring.startswith("20 most probable")
    assert "/v1/score" not in server.paths()


def test_the_route_of_vllm_scores_with_adapters() -> None:
    with serve(ScoringServer("vllm")) as server:
        (found,) = score(opened(server.url, adapter="tuned"))
    values = log_probs([*render([{"role": "user", "content": TEXT}]), 7])
    assert found.log_probs == pytest.approx((values[YES], values[NO]))
    assert {request.body["model"] for request in server.history if request.body} == {"tuned"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_beyond_the_limit_is_shortened_by_words(kind: str) -> None:
    """The route of vLLM would cut the end of the prompt, with the question."""
    with serve(ScoringServer(kind, max_model_len=50)) as server:
        (found,) = score(opened(server.url), prompt("yes " * 60, trimmable=1))
    sent = [r.body for r in server.history if r.path == "/v1/chat/completions"][-1]
    tokens = render(sent["messages"])
    values = log_probs(tokens)
    assert 20 < len(tokens) < 50
    assert found.log_probs == pytest.approx((values[YES], values[NO]))


def test_the_method_is_probed_again_if_the_route_disappears() -> None:
    handler = ScoringServer("sglang")
    with serve(handler) as server:
        backend = opened(server.url, concurrency=1)
        question = "Answer only yes or no."
        assert score(backend, prompt(question))[0].log_probs == exact(question)
        handler.route = HttpResponse({"detail": "Not Found"}, status=404)
        assert score(backend, prompt(question))[0].log_probs == exact(question)
        n_before = server.paths().count("/v1/score")
        assert score(backend, prompt(question))[0].log_probs == exact(question)
        assert server.paths().count("/v1/score") == n_before
        assert backend.capabilities.scoring.startswith("20 most probable tokens")


def test_a_prompt_that_the_route_rejects_is_scored_by_a_chat_request() -> None:
    handler = ScoringServer("vllm")
    with serve(handler) as server:
        backend = opened(server.url, concurrency=1)
        score(backend)
        handler.route = HttpResponse({"error": {"message": "not now", "code": 400}}, status=400)
        assert score(backend, prompt("Answer only no."))[0].log_probs == exact("Answer only no.")
        handler.route = None
        assert score(backend)[0].log_probs == exact()
