"""Tests of the mock backend: scripted answers and scores, history, failures."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys
from pathlib import Path

import pytest

from mllm_msr.backends import mock
from mllm_msr.backends.mock import MockBackend
from mllm_msr.errors import AnswerTokenError, BackendError, CapabilityError
from mllm_msr.types import Message, Prompt, TextPart


def ask(text: str, *, new: int = 128) -> Prompt:
    return Prompt((Message("user", (TextPart(text),)),), max_new_tokens=new)


def test_a_sequence_is_used_in_order_and_repeated() -> None:
    backend = MockBackend(["one", "two"])
    assert [answer.text for _, answer in backend.generate([ask("x")] * 3)] == ["one", "two", "one"]


def test_a_mapping_answers_by_text_in_the_prompt() -> None:
    backend = MockBackend({"film": "A film.", "song": "A song."})
    answers = dict(backend.generate([ask("the song"), ask("the film"), ask("the rain")]))
    assert answers[0].text == "A song."
    assert answers[1].text == "A film."
    assert "no answer to 'the rain'" in str(answers[2].error)


def test_an_exception_of_a_function_fails_the_prompt() -> None:
    def answer(prompt: Prompt) -> str:
        if "bad" in prompt.text:
            raise RuntimeError("gone\nwith a trace")
        return "good"

    answers = dict(MockBackend(answer).generate([ask("bad"), ask("fine")]))
    assert answers[0].error == "gone"
    assert answers[0].finish_reason == "error"
    assert answers[1].text == "good"


def test_an_answer_is_truncated_to_max_new_tokens() -> None:
    _, answer = next(MockBackend(["one two three four"]).generate([ask("x", new=2)]))
    assert answer.text == "one two"
    assert answer.finish_reason == "length"
    assert answer.output_tokens == 2


def test_scores_are_logarithms_of_the_probabilities() -> None:
    backend = MockBackend(scores={"film": (0.25, 0.5)})
    _, scored = next(backend.score([ask("a film")], ("yes", "no")))
    assert scored.log_probs == pytest.approx((math.log(0.25), math.log(0.5)))


@pytest.mark.parametrize("wrong", [(0.5,), (0.0, 1.0), (0.2, 1.2), (math.nan, 0.5)])
def test_invalid_probabilities_fail_the_prompt(wrong: tuple[float, ...]) -> None:
    _, scored = next(MockBackend(scores=wrong).score([ask("x")], ("yes", "no")))
    assert scored.log_probs == ()
    assert "are not 2 numbers in (0, 1]" in str(scored.error)


def test_unknown_choices_raise_an_error() -> None:
    with pytest.raises(AnswerTokenError, match=r"does not know the choices \['maybe'\]"):
        MockBackend().score([ask("x")], ("yes", "maybe"))


def test_the_history_contains_every_prompt_in_order() -> None:
    backend = MockBackend(["a"])
    first, second = ask("first"), ask("second")
    list(backend.generate([first]))
    list(backend.score([second], ("yes", "no")))
    assert backend.history == [first, second]


def test_the_length_of_the_history_is_limited() -> None:
    backend = MockBackend(["a"])
    lengths = set()
    for n in range(9_001):
        list(backend.generate([ask(str(n))]))
        lengths.add(len(backend.history))
    assert max(lengths) == 4_000
    assert backend.history[-1].text == "9000"
    assert backend.history[-2_000].text == "7001"


def test_a_closed_backend_raises_an_error() -> None:
    backend = MockBackend()
    backend.close()
    with pytest.raises(BackendError, match="The backend is closed"):
        next(backend.generate([ask("x")]))


def test_the_docstring_example_runs() -> None:
    assert doctest.testmod(mock).failed == 0


def test_importing_the_module_loads_no_model_library() -> None:
    code = (
        "import sys, mllm_msr.backends.mock;"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_mock_backend_has_no_weights(tmp_path: Path) -> None:
    assert MockBackend.is_local
    assert not MockBackend.caches_image_prefixes
    assert MockBackend.trainable_checkpoint() is None
    assert MockBackend.default_copies() == 1
    with pytest.raises(CapabilityError, match="MockBackend cannot load the fine-tuned weights"):
        MockBackend.with_adapter({}, tmp_path, "lora")
