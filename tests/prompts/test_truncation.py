"""Truncation of prompts: trimmable parts are shortened in order, everything else stays."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.prompts.truncation import count_words, cut
from mllm_msr.types import ImagePart, Message, Part, Prompt, TextPart

TITLE = TextPart("one two", trimmable=2)
PREFERENCE = TextPart("a b c", trimmable=1)
FIXED = TextPart("fixed words")


def texts(prompt: Prompt) -> list[str]:
    return [part.text for part in prompt.messages[0].parts if isinstance(part, TextPart)]


def prompt_of(*parts: Part) -> Prompt:
    return Prompt((Message("user", parts),))


def test_parts_are_shortened_in_order_regardless_of_their_position() -> None:
    prompt = prompt_of(PREFERENCE, FIXED, TITLE)
    assert count_words(prompt) == 5
    assert texts(cut(prompt, 4)) == ["a b", "fixed words", "one two"]
    assert texts(cut(prompt, 2)) == ["", "fixed words", "one two"]
    assert texts(cut(prompt, 1)) == ["", "fixed words", "one"]


def test_text_without_spaces_is_shortened() -> None:
    prompt = prompt_of(TextPart("電" * 100, trimmable=1))
    assert texts(cut(prompt, 1)) == ["電" * 32]


def test_images_and_limits_are_unchanged() -> None:
    prompt = Prompt((Message("user", (ImagePart(Path("a.png")), PREFERENCE)),), max_new_tokens=7)
    shortened = cut(prompt, 0)
    assert shortened.images == prompt.images
    assert shortened.max_new_tokens == 7
    assert count_words(shortened) == 0


@given(st.text(max_size=200), st.text(max_size=200), st.integers(0, 30))
def test_a_cut_prompt_has_at_most_that_many_words(first: str, second: str, n_words: int) -> None:
    prompt = prompt_of(TextPart(first, trimmable=1), TextPart(second, trimmable=2))
    assert count_words(cut(prompt, n_words)) <= n_words
    assert cut(prompt, count_words(prompt)) == cut(prompt, 10_000)
