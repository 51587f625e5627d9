"""Tokens of answers: what the template puts before them counts; two tokens are refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from mllm_msr.errors import AnswerTokenError
from mllm_msr.models.answer_tokens import AnswerTokens
from mllm_msr.models.chat_template import ChatTemplate
from mllm_msr.types import Message, Prompt, TextPart

Template = Callable[[str], ChatTemplate]


@pytest.fixture(scope="module")
def template(processor: Callable[[str], Any]) -> Template:
    return functools.cache(lambda family: ChatTemplate(processor(family)))


def written(template: ChatTemplate, text: str = "Yes or no?") -> str:
    return template.write(Prompt((Message("user", (TextPart(text),)),)))


@pytest.mark.parametrize(
    ("family", "form"), [("llava_next", " yes"), ("smolvlm", " yes"), ("qwen2_5_vl", "yes")]
)
def test_the_chat_template_decides_on_the_space(family: str, form: str, template: Template) -> None:
    own = template(family)
    (token,) = AnswerTokens(own).choice_ids(own.tokenise(written(own)), ("yes",))
    assert own.tokenizer.decode([token]) == form


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "llama"])
def test_the_end_of_a_prompt_tells_as_much_as_its_text(family: str, template: Template) -> None:
    own, text = template(family), written(template(family), "calm films " * 60)
    ids, answers = own.tokenise(text), AnswerTokens(own)
    for answer in ("yes", "no, calm films"):
        known = answers.answer_ids(ids, answer, text=text)
        assert known == answers.answer_ids(ids, answer, text=None)
        assert own.tokenise(text + own.answer_lead + answer) == (*ids, *known)


def test_an_answer_of_two_tokens_is_refused_with_its_pieces(template: Template) -> None:
    own = template("qwen2_5_vl")
    with pytest.raises(AnswerTokenError, match=r"'lantern' as \d tokens \['"):
        AnswerTokens(own).choice_ids(own.tokenise(written(own)), ("yes", "lantern"))


def test_equal_answers_are_refused(template: Template) -> None:
    own = template("llama")
    with pytest.raises(AnswerTokenError, match="answers that differ"):
        AnswerTokens(own).choice_ids(own.tokenise(written(own)), ("yes", "yes"))


def test_an_answer_that_merges_with_the_prompt_is_refused(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = template("llama")
    text = "calm fil"
    with pytest.raises(AnswerTokenError, match="merges with the prompt's end"):
        AnswerTokens(own).answer_ids(own.tokenise(text), "ms", text=text)
