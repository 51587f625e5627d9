"""What an endpoint is asked about itself, with a server that is only a function."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from endpoints import listed, said
from mllm_msr.backends._http import probes
from mllm_msr.backends._http.chat_format import Scoring
from mllm_msr.backends._http.client import RefusedError
from mllm_msr.errors import AnswerTokenError, CapabilityError

CHOICES = ("yes", "no")


class Probed:
    """Answers probes: what it does not know it refuses."""

    def __init__(
        self, *, tokens: Mapping[str, list[int]] | None = None, most_listed: int = 0
    ) -> None:
        self.asked: list[tuple[str, Mapping[str, object] | None]] = []
        self._tokens = tokens
        self._most_listed = most_listed

    async def __call__(self, route: str, fields: Mapping[str, object] | None) -> dict[str, Any]:
        self.asked.append((route, fields))
        known: Any = fields or {}
        if route == "../tokenize" and self._tokens is not None:
            answers = [turn["content"] for turn in known["messages"][1:]]
            return {"tokens": [7, 8, *(self._tokens[answers[0]] if answers else [])]}
        if self._tokens is not None and "logprob_token_ids" in known:
            values = {f"token_id:{i}": -1.0 for i in known["logprob_token_ids"]}
            return dict(listed(values).body)  # type: ignore[arg-type]
        if 0 < known.get("top_logprobs", 99) <= self._most_listed:
            return dict(listed({"yes": -0.1, "no": -3.0}).body)  # type: ignore[arg-type]
        raise RefusedError(400, "unknown field")


def scoring(ask: Probed, form: Literal["auto", "token_ids", "top_logprobs"] = "auto") -> Scoring:
    return asyncio.run(probes.scoring(ask, choices=CHOICES, form=form, name="m"))


def test_named_tokens_are_preferred() -> None:
    ask = Probed(tokens={"yes": [31], "no": [32]}, most_listed=20)
    assert scoring(ask) == Scoring(CHOICES, token_ids=(31, 32))
    assert scoring(ask, "top_logprobs") == Scoring(CHOICES, n_top=20)


def test_fewer_tokens_are_asked_for_where_twenty_are_too_many() -> None:
    assert scoring(Probed(most_listed=5)) == Scoring(CHOICES, n_top=5)


def test_a_form_that_is_wanted_and_missing_is_refused() -> None:
    with pytest.raises(CapabilityError, match="gives no log-probabilities"):
        scoring(Probed(most_listed=20), "token_ids")
    with pytest.raises(CapabilityError, match=r"score\.model\.backend=huggingface"):
        scoring(Probed())


@pytest.mark.parametrize("wrong", [[31, 33], []])
def test_an_answer_of_several_tokens_or_none_is_refused(wrong: list[int]) -> None:
    with pytest.raises(AnswerTokenError, match="'yes' as the tokens"):
        scoring(Probed(tokens={"yes": wrong, "no": [32]}))


def test_images_are_tried_with_one() -> None:
    async def takes(route: str, fields: Mapping[str, object] | None) -> dict[str, Any]:
        assert "data:image/png;base64," in str(fields)
        return dict(said("white").body)  # type: ignore[arg-type]

    assert asyncio.run(probes.reads_images(takes))
    assert not asyncio.run(probes.reads_images(Probed()))
