"""Tests for the phrases that a preference and a summary share, and for splitting preferences."""

from __future__ import annotations

import pytest

from mllm_msr.recommend.explanations import Explainer, preference_parts, without_part

CORPUS = [
    "A calm film that shows a lantern in red colors.",
    "A loud song that shows a boat in green colors.",
    "A calm song that shows a boat in red colors.",
]
PREFERENCE = "The user appears to have a preference for calm films that show a boat in Red colors."


def test_matches_keep_the_words_and_order_of_the_preference() -> None:
    explainer = Explainer(CORPUS, common=0.7)
    assert explainer.matches(PREFERENCE, CORPUS[0]) == ("calm films", "Red")
    assert explainer.matches(PREFERENCE, CORPUS[1]) == ("boat",)


def test_words_that_most_summaries_contain_do_not_match() -> None:
    assert "colors" in " ".join(Explainer(CORPUS, common=1.0).matches(PREFERENCE, CORPUS[0]))
    assert Explainer(CORPUS, common=0.3).matches(PREFERENCE, CORPUS[1]) == ()


def test_empty_texts_and_repeated_phrases() -> None:
    explainer = Explainer(CORPUS)
    assert explainer.matches("", CORPUS[0]) == ()
    assert explainer.matches(PREFERENCE, "") == ()
    assert explainer.matches("lantern, Lantern; a lantern", CORPUS[0]) == (
        "lantern Lantern",
        "lantern",
    )


def test_stop_words_do_not_match_in_a_small_catalog() -> None:
    explainer = Explainer(["The bell for the sea", "A lamp"])
    assert explainer.matches("The user likes the sea, for a start.", "The bell for the sea") == (
        "sea",
    )


def test_parts_of_a_single_sentence_are_its_clauses() -> None:
    parts = preference_parts(PREFERENCE)
    assert parts == ("for calm films", "that show a boat", "in Red colors")
    assert [without_part(PREFERENCE, part) for part in parts] == [
        "The user appears to have a preference that show a boat in Red colors.",
        "The user appears to have a preference for calm films in Red colors.",
        "The user appears to have a preference for calm films that show a boat.",
    ]


def test_parts_of_several_sentences_are_the_sentences() -> None:
    text = "The user likes calm films. They avoid loud songs! Boats interest them."
    assert preference_parts(text) == (
        "The user likes calm films.",
        "They avoid loud songs!",
        "Boats interest them.",
    )
    assert (
        without_part(text, "They avoid loud songs!")
        == "The user likes calm films. Boats interest them."
    )


@pytest.mark.parametrize("text", ["", " ", "Nothing.", "The user likes films"])
def test_text_without_clauses_has_no_parts(text: str) -> None:
    assert preference_parts(text) == ()


def test_clauses_begin_at_whole_words_only() -> None:
    assert preference_parts("The user likes indoor androids and forests.") == ("and forests",)


def test_similar_items_share_words_that_matter() -> None:
    explainer = Explainer(["a film about the sea", "a film about a train", "a song"], common=0.6)
    described = {
        "Rails 1995": "a film about a train in 1995",
        "Tide": "a film about the sea and a boat",
        "Song": "a song",
    }
    assert explainer.similar(described, "the boat and the sea, and a train in 1995") == (
        "Tide",  # two words
        "Rails 1995",  # numbers do not count
    )
    assert explainer.similar(described, "a film") == ()  # in most summaries
    assert explainer.similar({}, "the sea") == ()
