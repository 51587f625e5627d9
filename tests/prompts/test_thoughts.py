"""Thoughts of reasoning models: removed from answers in the markup of every family."""

from __future__ import annotations

import doctest
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.prompts import thoughts
from mllm_msr.prompts.thoughts import closes_thought, is_mark, opens_thought, remove_thoughts

HARMONY = (
    "<|channel|>analysis<|message|>A lantern.<|end|><|start|>assistant<|channel|>final<|message|>"
    "A calm film.<|return|>"
)


@pytest.mark.parametrize(
    "text",
    [
        "A calm film.",
        "<think>\nA lantern.\n</think>\n\nA calm film.",
        "<think>\n\n</think>\n\nA calm film.",
        "A lantern, so calm.\n</think>\n\nA calm film.",
        "<thinking>A lantern.</thinking>A calm film.",
        "<Think>I write <think> twice.</THINK>A calm film.",
        "<thought>A lantern.</thought>A calm film.",
        "<reasoning effort='low'>A lantern.</reasoning>A calm film.",
        "<think>A lantern.</think><answer>A calm film.</answer>",
        "<think>A lantern.</think><|begin_of_box|>A calm film.<|end_of_box|>",
        "<seed:think>A lantern.</seed:think>A calm film.",
        "<longcat_think>A lantern.</longcat_think>A calm film.",
        "<mm:think>A lantern.</mm:think>A calm film.",
        "[THINK]A lantern.[/THINK]A calm film.",
        "\u25c1think\u25b7A lantern.\u25c1/think\u25b7A calm film.",
        "<|START_THINKING|>A lantern.<|END_THINKING|><|START_RESPONSE|>A calm film.",
        "<|begin_of_thought|>A lantern.<|end_of_thought|>\n<|begin_of_solution|>A calm film.",
        "<unused94>thought\nA lantern.<unused95>A calm film.",
        "<|channel>thought\nA lantern.<channel|>A calm film.",
        "<|channel>thought\n<channel|>A calm film.",
        HARMONY,
        HARMONY.replace("<|return|>", ""),
        "<|channel|>final<|message|>A calm film.",
        "analysisA lantern.assistantfinalA calm film.",
        "Here is my thought process: A lantern.\nHere is my response: A calm film.",
        "A lantern. [BEGIN FINAL RESPONSE]A calm film.[END FINAL RESPONSE]",
        "<think>a</think>A calm <think>b</think>film.",
    ],
)
def test_closed_thoughts_are_removed(text: str) -> None:
    assert remove_thoughts(text) == ("A calm film.", False)


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nA lantern",
        "<think>a</think><think>b",
        "[THINK]A lantern",
        "<unused94>thought\nA lantern",
        "<|channel>thought\nA lantern",
        "<|channel|>analysis<|message|>A lantern.",
        "<|channel|>analysis",
        HARMONY.partition("<|start|>")[0],
        "analysisThe lantern is",
        "Here are my reasoning steps: a lantern",
    ],
)
def test_an_unfinished_thought_leaves_no_answer(text: str) -> None:
    assert remove_thoughts(text) == ("", True)


@pytest.mark.parametrize(
    "text",
    [
        "Analysis of a city at night.",
        "analysis shows a lantern",
        "A film about thinking, <b>reasons</b> and [think] tanks; 3 < 4 > 2.",
        "The assistant finally leaves.",
    ],
)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert remove_thoughts(text) == (text, False)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<|channel|>", "final", "[THINK]", "a "])))
def test_no_thought_remains_in_any_combination(pieces: list[str]) -> None:
    answer = remove_thoughts("".join(pieces))
    assert not answer.is_unfinished or not answer.text
    assert "think>" not in answer.text


def test_removal_takes_linear_time() -> None:
    for piece in ("<think>", "</think>", "<|channel|>", "<reasoning ", "<|channel|>final ", "["):
        start = time.process_time()
        remove_thoughts(piece * 100_000)
        assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("<|im_start|>assistant\n", False),
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|turn>model\n<|channel>thought\n", True),
        ("<|turn>model\n<|channel>thought\n<channel|>", False),
        ("<|start|>assistant<|channel|>analysis<|message|>", True),
        ("<|start|>assistant<|channel|>final<|message|>", False),
        ("[/INST][THINK]", True),
    ],
)
def test_prompts_that_end_within_a_thought_are_recognized(text: str, opened: bool) -> None:
    assert opens_thought(text) is opened


def test_markup_tokens_are_recognized() -> None:
    assert all(map(is_mark, ("<think>", "</think>", "<|channel|>", "<|message|>", "[THINK]")))
    assert not any(map(is_mark, ("<s>", "yes", "<image>", "<|im_end|>", " think")))


def test_docstring_examples() -> None:
    assert doctest.testmod(thoughts).failed == 0


def test_a_closing_tag_before_any_other_ends_a_thought_of_the_prompt() -> None:
    assert closes_thought("So calm.</think> A film.")
    assert closes_thought("So calm.[/THINK]A film. <think>again")
    assert not closes_thought("<think>So calm.</think> A film.")
    assert not closes_thought("A film.")
    assert not closes_thought("<answer>A film.</answer>")
