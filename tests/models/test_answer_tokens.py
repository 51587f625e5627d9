"""Tests of the token ids of answers after a rendered prompt."""

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


def rendered(template: ChatTemplate, text: str = "Yes or no?") -> str:
    return template.render(Prompt((Message("user", (TextPart(text),)),)))


@pytest.mark.parametrize(
    ("family", "form"), [("llava_next", " yes"), ("smolvlm", " yes"), ("qwen2_5_vl", "yes")]
)
def test_chat_template_determines_the_space_before_an_answer(
    family: str, form: str, template: Template
) -> None:
    own = template(family)
    (token,) = AnswerTokens(own).choice_ids(own.tokenize(rendered(own)), ("yes",))
    assert own.tokenizer.decode([token]) == form


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "llama"])
def test_answer_ids_from_the_tail_equal_those_from_the_text(
    family: str, template: Template
) -> None:
    own, text = template(family), rendered(template(family), "calm films " * 60)
    ids, answers = own.tokenize(text), AnswerTokens(own)
    for answer in ("yes", "no, calm films"):
        known = answers.answer_ids(ids, answer, text=text)
        assert known == answers.answer_ids(ids, answer, text=None)
        assert own.tokenize(text + own.answer_lead + answer) == (*ids, *known)


def test_a_choice_of_several_tokens_raises_an_error_with_its_tokens(template: Template) -> None:
    own = template("qwen2_5_vl")
    with pytest.raises(AnswerTokenError, match=r"'lantern' must be .* it is \d tokens: \['"):
        AnswerTokens(own).choice_ids(own.tokenize(rendered(own)), ("yes", "lantern"))


def test_equal_choices_raise_an_error(template: Template) -> None:
    own = template("llama")
    with pytest.raises(AnswerTokenError, match="do not differ in their first token"):
        AnswerTokens(own).choice_ids(own.tokenize(rendered(own)), ("yes", "yes"))


def test_an_answer_that_merges_with_the_prompt_raises_an_error(template: Template) -> None:
    own = template("llama")
    text = "calm fil"
    with pytest.raises(AnswerTokenError, match="'ms' merges with the last token"):
        AnswerTokens(own).answer_ids(own.tokenize(text), "ms", text=text)
