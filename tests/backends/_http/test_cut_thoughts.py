"""Tests of answers that end within a thought of the chat template."""

from __future__ import annotations

import asyncio

import pytest

from mllm_msr.backends._http.cut_thoughts import CutThoughts
from mllm_msr.prompts.thoughts import remove_thoughts
from mllm_msr.types import Completion


class Probe:
    def __init__(self, *, opens: bool) -> None:
        self.opens = opens
        self.n_calls = 0

    async def __call__(self) -> bool:
        self.n_calls += 1
        return self.opens


def restore(probe: Probe, *completions: Completion) -> list[Completion]:
    cut_thoughts = CutThoughts(probe)

    async def run() -> list[Completion]:
        return await asyncio.gather(*map(cut_thoughts.restore, completions))

    return asyncio.run(run())


def test_a_cut_answer_gets_the_opening_tag() -> None:
    probe = Probe(opens=True)
    cut = Completion("So calm, it", 7, 3, finish_reason="length")
    first, second = restore(probe, cut, cut)
    assert first == second
    assert remove_thoughts(first.text).is_unfinished
    assert (first.prompt_tokens, first.output_tokens, first.finish_reason) == (7, 3, "length")
    assert probe.n_calls == 1


def test_a_cut_answer_stays_if_the_template_opens_no_thought() -> None:
    cut = Completion("A calm", finish_reason="length")
    assert restore(Probe(opens=False), cut) == [cut]


@pytest.mark.parametrize(
    "completion",
    [
        Completion("A calm film."),
        Completion("So calm.</think> A calm", finish_reason="length"),
        Completion("", finish_reason="error", error="no"),
    ],
)
def test_other_answers_need_no_probe(completion: Completion) -> None:
    probe = Probe(opens=True)
    assert restore(probe, completion) == [completion]
    assert probe.n_calls == 0
