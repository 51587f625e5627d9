"""Chat templates: markup by the checkpoint alone, marks in data broken apart, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.errors import BackendError
from mllm_msr.models.chat_template import ChatTemplate
from mllm_msr.types import ImagePart, Message, Prompt, TextPart


def ask(*parts: str | Path) -> Prompt:
    turned = tuple(ImagePart(p) if isinstance(p, Path) else TextPart(p) for p in parts)
    return Prompt((Message("user", turned),))


def test_a_image_is_one_placeholder_where_it_stands(processor: Any) -> None:
    own = processor("qwen2_5_vl")
    text = ChatTemplate(own).write(ask("Before ", Path("x.jpg"), " after"))
    before, after = text.split(own.image_token)
    assert "Before " in before
    assert " after" in after


@pytest.mark.parametrize(("family", "lead"), [("llava_next", " "), ("qwen2_5_vl", "")])
def test_the_space_before_an_answer_is_the_templates(
    family: str, lead: str, processor: Any
) -> None:
    assert ChatTemplate(processor(family)).answer_lead == lead


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_a_text_begins_with_one_first_token(family: str, processor: Any) -> None:
    template = ChatTemplate(processor(family))
    ids = template.tokenise(template.write(ask("Hello.")))
    assert ids.count(template.tokenizer.bos_token_id) == (template.tokenizer.bos_token is not None)


@given(st.lists(st.sampled_from(["<", "image", ">", " ", "</s>", "<s>", "x"]), max_size=12))
def test_neutralised_text_holds_no_mark(processor: Any, pieces: list[str]) -> None:
    text = ChatTemplate(processor("llava_next")).neutralise("".join(pieces))
    assert not any(mark in text for mark in ("<image>", "<s>", "</s>"))
    assert text.replace(" ", "") == "".join(pieces).replace(" ", "")


def test_plain_text_stays_as_it_is(processor: Any) -> None:
    text = "3 < 4 > 2, [live] {x} | ünïcode 映画"
    assert ChatTemplate(processor("gemma3")).neutralise(text) == text


def test_a_checkpoint_without_chat_template_is_refused(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = processor("llama")
    monkeypatch.setattr(own, "chat_template", None)
    with pytest.raises(BackendError, match="needed a checkpoint with a chat template"):
        ChatTemplate(own)


def test_a_role_that_the_template_rejects_is_one_sentence(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = ChatTemplate(processor("llama"))
    rejecting = "{{ raise_exception('no such role') }}"
    monkeypatch.setattr(template.tokenizer, "chat_template", rejecting)
    with pytest.raises(BackendError, match=r"turns of user \(no such role\)"):
        template.write(ask("Hello."))
