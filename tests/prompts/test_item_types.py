"""Words for items in prompts: any word, its plural and its verbs."""

from __future__ import annotations

import pytest

from mllm_msr.errors import UsageError
from mllm_msr.prompts.item_types import ITEM_TYPES, ItemType, find_item_type


@pytest.mark.parametrize(
    ("word", "plural"),
    [
        ("book", "books"),
        ("dish", "dishes"),
        ("story", "stories"),
        ("toy", "toys"),
        ("box", "boxes"),
        ("board game", "board games"),
        ("Möbel", "Möbels"),
    ],
)
def test_any_word_can_be_used(word: str, plural: str) -> None:
    assert find_item_type(word) == ItemType(word, plural, "choose", "chose")


def test_known_words_have_their_own_verbs() -> None:
    assert find_item_type("film") == ItemType("film", "films", "watch", "watched")
    assert find_item_type("product").chose == "bought"


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("mouse/mice", ("mouse", "mice", "choose", "chose")),
        ("book/books/like", ("book", "books", "like", "liked")),
        ("song/songs/play", ("song", "songs", "play", "played")),
        ("case/cases/try", ("case", "cases", "try", "tried")),
        ("book / books / read / read", ("book", "books", "read", "read")),
    ],
)
def test_forms_can_be_given(text: str, forms: tuple[str, ...]) -> None:
    found = find_item_type(text)
    assert (found.singular, found.plural, found.choose, found.chose) == forms
    assert find_item_type(str(found)) == found


@pytest.mark.parametrize("word", [*ITEM_TYPES, "book", "story"])
def test_the_text_of_regular_words_is_the_word(word: str) -> None:
    assert str(find_item_type(word)) == word


@pytest.mark.parametrize(
    "text", ["", " ", "a/", "a/b/c/d/e", 'x"', "{{ x }}", "a\nb", "../etc", "x" * 41, "7", "<b>"]
)
def test_texts_that_are_no_words_are_rejected(text: str) -> None:
    with pytest.raises(UsageError, match=r"item_type is .* Use a word"):
        find_item_type(text)
