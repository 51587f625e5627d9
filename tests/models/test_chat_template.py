"""Tests of chat templates: markup, escaping of special tokens in data, and errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mllm_msr.errors import BackendError, CapabilityError
from mllm_msr.models.chat_template import ChatTemplate
from mllm_msr.types import ImagePart, Message, Prompt, TextPart


def ask(*parts: str | Path) -> Prompt:
    turned = tuple(ImagePart(p) if isinstance(p, Path) else TextPart(p) for p in parts)
    return Prompt((Message("user", turned),))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_next"])
def test_an_image_is_one_placeholder_at_its_position(family: str, processor: Any) -> None:
    own = processor(family)
    text = ChatTemplate(own).render(ask("Before ", Path("x.jpg"), " after"))
    before, after = text.split(own.image_token)
    assert "Before " in before
    assert " after" in after


def test_a_template_that_moves_images_is_used_for_text_that_follows_them(processor: Any) -> None:
    template = ChatTemplate(processor("llava_next"))
    image = Path("x.jpg")
    assert template.render(ask(image, "After")) == "USER: <image>\nAfter ASSISTANT:"
    assert template.render(ask("Before", image, "after <image>")) == (
        "USER: Before<image>\nafter < image> ASSISTANT:"
    )
    assert template.render(ask(image, "One", image, "two")) == (
        "USER: <image>\nOne<image>\ntwo ASSISTANT:"
    )


@pytest.mark.parametrize(("family", "lead"), [("llava_next", " "), ("qwen2_5_vl", "")])
def test_answer_lead_is_the_space_of_the_template(family: str, lead: str, processor: Any) -> None:
    assert ChatTemplate(processor(family)).answer_lead == lead


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_tokenized_text_has_exactly_one_bos_token(family: str, processor: Any) -> None:
    template = ChatTemplate(processor(family))
    ids = template.tokenize(template.render(ask("Hello.")))
    assert ids.count(template.tokenizer.bos_token_id) == (template.tokenizer.bos_token is not None)


@given(st.lists(st.sampled_from(["<", "image", ">", " ", "</s>", "<s>", "x"]), max_size=12))
def test_escaped_text_contains_no_special_token(processor: Any, pieces: list[str]) -> None:
    text = ChatTemplate(processor("llava_next")).escape_markup("".join(pieces))
    assert not any(mark in text for mark in ("<image>", "<s>", "</s>"))
    assert text.replace(" ", "") == "".join(pieces).replace(" ", "")


def test_plain_text_is_unchanged(processor: Any) -> None:
    text = "3 < 4 > 2, [live] {x} | ünïcode 映画"
    assert ChatTemplate(processor("gemma3")).escape_markup(text) == text


def test_a_checkpoint_without_chat_template_raises_an_error(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = processor("llama")
    monkeypatch.setattr(own, "chat_template", None)
    with pytest.raises(BackendError, match="The checkpoint has no chat template"):
        ChatTemplate(own)


def test_a_role_that_the_template_rejects_raises_an_error(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = ChatTemplate(processor("llama"))
    rejecting = "{{ raise_exception('no such role') }}"
    monkeypatch.setattr(template.tokenizer, "chat_template", rejecting)
    with pytest.raises(BackendError, match="rejects the roles user: no such role"):
        template.render(ask("Hello."))


STRINGS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    "template",
    [
        STRINGS,
        STRINGS.replace("m['content']", "m['content'] | trim"),
        STRINGS.replace("m['content']", "m['content'] + ''"),
        STRINGS.replace("m['content']", "m['content'] if m['content'] is string else raise"),
    ],
)
def test_a_template_that_prints_contents_gets_strings(
    template: str, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = processor("qwen2_5_vl")
    monkeypatch.setattr(own, "chat_template", template)
    rendered = ChatTemplate(own).render(ask("A calm ", "film."))
    assert rendered == "<|im_start|>user\nA calm film.<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(CapabilityError, match=r"writes 0 image placeholders .* such as x\.jpg"):
        ChatTemplate(own).render(ask("What is this?", Path("x.jpg")))


def test_a_text_model_whose_template_expects_parts_gets_parts(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = processor("llama")
    parts = (
        "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
    )
    monkeypatch.setattr(own, "chat_template", parts)
    assert ChatTemplate(own).render(ask("A calm film.")) == "A calm film."


def test_a_template_without_the_text_of_turns_raises_an_error(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = processor("llama")
    monkeypatch.setattr(own, "chat_template", "{{ messages[0]['text'] }}")
    with pytest.raises(BackendError, match="does not print the text of a user's turn"):
        ChatTemplate(own).render(ask("A calm film."))


def test_a_template_that_drops_a_part_raises_an_error(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = processor("qwen2_5_vl")
    first = "{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}"
    monkeypatch.setattr(own, "chat_template", first + "<|vision_start|><|image_pad|>")
    with pytest.raises(BackendError, match="drops a part of the prompt: 'second'"):
        ChatTemplate(own).render(ask("first", Path("x.jpg"), "second"))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llama"])
def test_thoughts_are_turned_off_if_the_template_can(
    family: str,
    processor: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = processor(family)
    thought = "{{ '<think>\n\n</think>\n\n' if enable_thinking is false else '<think>\n' }}"
    monkeypatch.setattr(own, "chat_template", own.chat_template + thought)
    with caplog.at_level("WARNING"):
        ChatTemplate(processor("gemma3")).render(ask("Hello."))
        template = ChatTemplate(own)
    assert template.render(ask("Hello.")).endswith("<think>\n\n</think>\n\n")
    assert template.open_thought == ""
    assert not caplog.records
    monkeypatch.setattr(own, "chat_template", own.chat_template.replace(" is false", " is none"))
    assert ChatTemplate(own).open_thought == "<think>"


@pytest.mark.parametrize("family", ["mllama", "mistral3"])
def test_the_turn_of_the_system_is_kept_or_begins_that_of_the_user(
    family: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint(family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (folder / "chat_template.jinja").read_text()
    tokenizer.image_token = {"mllama": "<|image|>", "mistral3": "[IMG]"}[family]
    tokenizer.tokenizer = tokenizer
    template = ChatTemplate(tokenizer)
    system = Message("system", (TextPart("You are calm."),))
    user = ask(tmp_path / "x.jpg", "Describe it.").messages[0]
    text = template.render(Prompt((system, user)))
    assert text.index("You are calm.") < text.index("Describe it.")
    in_own_turn = "[SYSTEM_PROMPT]You are calm.[/SYSTEM_PROMPT]" in text
    assert in_own_turn == (family == "mistral3")
    assert ("You are calm.\n\n" in text) == (family == "mllama")


def test_a_template_that_drops_the_turn_of_the_system_gets_it_from_the_user(
    processor: Any,
) -> None:
    own = copy.deepcopy(processor("llama"))
    own.chat_template = "{% for m in messages if m.role == 'user' %}<u>{{ m.content }}{% endfor %}"
    system = Message("system", (TextPart("You are calm."),))
    text = ChatTemplate(own).render(Prompt((system, *ask("Hello.").messages)))
    assert text == "<u>You are calm.\n\nHello."
