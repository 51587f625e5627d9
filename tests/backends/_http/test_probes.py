"""Tests of endpoint probes against a fake server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from endpoints import completion_response, logprobs_response
from mllm_msr.backends._http import probes
from mllm_msr.backends._http.chat_format import Scoring
from mllm_msr.backends._http.responses import RequestRejectedError
from mllm_msr.errors import AnswerTokenError, CapabilityError

CHOICES = ("yes", "no")


class FakeServer:
    """Server that supports the given features and rejects other requests."""

    def __init__(
        self, *, tokens: Mapping[str, list[int]] | None = None, max_top_logprobs: int = 0
    ) -> None:
        self.requests: list[tuple[str, Mapping[str, object] | None]] = []
        self._tokens = tokens
        self._max_top_logprobs = max_top_logprobs

    async def __call__(self, route: str, fields: Mapping[str, object] | None) -> dict[str, Any]:
        self.requests.append((route, fields))
        known: Any = fields or {}
        if route == "../tokenize" and self._tokens is not None:
            answers = [turn["content"] for turn in known["messages"][1:]]
            return {"tokens": [7, 8, *(self._tokens[answers[0]] if answers else [])]}
        if self._tokens is not None and "logprob_token_ids" in known:
            values = {f"token_id:{i}": -1.0 for i in known["logprob_token_ids"]}
            return dict(logprobs_response(values).body)  # type: ignore[arg-type]
        if "logprobs" not in known and "image_url" not in str(known):
            return dict(completion_response("yes").body)  # type: ignore[arg-type]
        if 0 < known.get("top_logprobs", 99) <= self._max_top_logprobs:
            return dict(logprobs_response({"yes": -0.1, "no": -3.0}).body)  # type: ignore[arg-type]
        raise RequestRejectedError(400, "unknown field")


def find(
    post: FakeServer, method: Literal["auto", "token_ids", "top_logprobs"] = "auto"
) -> Scoring:
    plan = asyncio.run(probes.find_scoring(post, choices=CHOICES, method=method, name="m"))
    assert plan.route is None
    return plan.chat


def test_scoring_by_token_ids_is_preferred() -> None:
    server = FakeServer(tokens={"yes": [31], "no": [32]}, max_top_logprobs=20)
    assert find(server) == Scoring(CHOICES, token_ids=(31, 32))
    assert find(server, "top_logprobs") == Scoring(CHOICES, n_top=20)


def test_five_tokens_are_requested_if_twenty_are_too_many() -> None:
    assert find(FakeServer(max_top_logprobs=5)) == Scoring(CHOICES, n_top=5)


def test_unsupported_scoring_raises_an_error() -> None:
    with pytest.raises(CapabilityError, match="returns no log-probabilities"):
        find(FakeServer(max_top_logprobs=20), "token_ids")
    with pytest.raises(CapabilityError, match=r"score\.model\.backend=huggingface"):
        find(FakeServer())


@pytest.mark.parametrize("wrong", [[31, 33], []])
def test_an_answer_that_is_not_one_token_raises_an_error(wrong: list[int]) -> None:
    with pytest.raises(AnswerTokenError, match="choice 'yes' must be exactly one token"):
        find(FakeServer(tokens={"yes": wrong, "no": [32]}))


def test_image_support_is_probed_with_an_image() -> None:
    async def accept(route: str, fields: Mapping[str, object] | None) -> dict[str, Any]:
        assert "data:image/png;base64," in str(fields)
        return dict(completion_response("white").body)  # type: ignore[arg-type]

    assert asyncio.run(probes.find_image_refusal(accept)) is None
    assert "unknown field" in str(asyncio.run(probes.find_image_refusal(FakeServer())))


def test_a_request_that_is_rejected_without_an_image_says_nothing_about_images() -> None:
    async def reject(route: str, fields: Mapping[str, object]) -> dict[str, Any]:
        raise RequestRejectedError(400, f"{route} needs a project")

    with pytest.raises(RequestRejectedError, match="needs a project"):
        asyncio.run(probes.find_image_refusal(reject))
    with pytest.raises(RequestRejectedError, match="needs a project"):
        asyncio.run(probes.find_scoring(reject, choices=CHOICES, method="auto", name="m"))


def test_a_model_that_runs_out_of_tokens_within_a_thought_accepts_images() -> None:
    async def think(route: str, fields: Mapping[str, object]) -> dict[str, Any]:
        raise RequestRejectedError(400, "Could not finish the message: output limit was reached.")

    assert asyncio.run(probes.find_image_refusal(think)) is None
