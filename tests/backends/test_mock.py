"""The scripted backend: its forms of script, its history, its failures."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys

import pytest

from mllm_msr.backends import mock
from mllm_msr.backends.mock import MockBackend, prompt_text
from mllm_msr.errors import AnswerTokenError, BackendError
from mllm_msr.types import Message, Prompt, TextPart


def ask(text: str, *, new: int = 128) -> Prompt:
    return Prompt((Message("user", (TextPart(text),)),), max_new_tokens=new)


def test_a_sequence_is_given_out_in_order_and_again() -> None:
    backend = MockBackend(["one", "two"])
    assert [answer.text for _, answer in backend.generate([ask("x")] * 3)] == ["one", "two", "one"]


def test_a_mapping_answers_by_what_the_prompt_contains() -> None:
    backend = MockBackend({"film": "A film.", "song": "A song."})
    answers = dict(backend.generate([ask("the song"), ask("the film"), ask("the rain")]))
    assert answers[0].text == "A song."
    assert answers[1].text == "A film."
    assert "no answer to 'the rain'" in str(answers[2].error)


def test_what_a_function_raises_is_that_prompts_failure() -> None:
    def answer(prompt: Prompt) -> str:
        if "bad" in prompt_text(prompt):
            raise RuntimeError("gone\nwith a trace")
        return "good"

    answers = dict(MockBackend(answer).generate([ask("bad"), ask("fine")]))
    assert answers[0].error == "gone"
    assert answers[0].finish_reason == "error"
    assert answers[1].text == "good"


def test_an_answer_is_cut_to_its_bound() -> None:
    _, answer = next(MockBackend(["one two three four"]).generate([ask("x", new=2)]))
    assert answer.text == "one two"
    assert answer.finish_reason == "length"
    assert answer.output_tokens == 2


def test_scores_are_logarithms_of_the_scripts_probabilities() -> None:
    backend = MockBackend(scores={"film": (0.25, 0.5)})
    _, scored = next(backend.score([ask("a film")], ("yes", "no")))
    assert scored.log_probs == pytest.approx((math.log(0.25), math.log(0.5)))


@pytest.mark.parametrize("wrong", [(0.5,), (0.0, 1.0), (0.2, 1.2), (math.nan, 0.5)])
def test_scores_that_are_no_probabilities_fail(wrong: tuple[float, ...]) -> None:
    _, scored = next(MockBackend(scores=wrong).score([ask("x")], ("yes", "no")))
    assert scored.log_probs == ()
    assert "for 2 choices" in str(scored.error)


def test_choices_out_of_the_list_are_refused() -> None:
    with pytest.raises(AnswerTokenError, match=r"received \['maybe'\]"):
        MockBackend().score([ask("x")], ("yes", "maybe"))


def test_the_history_holds_every_prompt_in_order() -> None:
    backend = MockBackend(["a"])
    first, second = ask("first"), ask("second")
    list(backend.generate([first]))
    list(backend.score([second], ("yes", "no")))
    assert backend.history == [first, second]


def test_a_closed_backend_refuses() -> None:
    backend = MockBackend()
    backend.close()
    with pytest.raises(BackendError, match="received a closed one"):
        next(backend.generate([ask("x")]))


def test_the_example_in_its_docstring_runs() -> None:
    assert doctest.testmod(mock).failed == 0


def test_importing_it_loads_no_model_library() -> None:
    code = (
        "import sys, mllm_msr.backends.mock;"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
