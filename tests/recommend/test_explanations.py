"""What a preference and a summary share, as the preference writes it."""

from __future__ import annotations

import pytest

from mllm_msr.recommend.explanations import Explainer, parts, without

CORPUS = [
    "A calm film that shows a lantern in red colours.",
    "A loud song that shows a boat in green colours.",
    "A calm song that shows a boat in red colours.",
]
PREFERENCE = "The user appears to have a preference for calm films that show a boat in Red colours."


def test_shared_phrases_in_the_preferences_words_and_order() -> None:
    explainer = Explainer(CORPUS, common=0.7)
    assert explainer.shared(PREFERENCE, CORPUS[0]) == ("calm films", "Red")
    assert explainer.shared(PREFERENCE, CORPUS[1]) == ("boat",)


def test_words_of_nearly_every_summary_say_nothing() -> None:
    assert "colours" in " ".join(Explainer(CORPUS, common=1.0).shared(PREFERENCE, CORPUS[0]))
    assert Explainer(CORPUS, common=0.3).shared(PREFERENCE, CORPUS[1]) == ()


def test_nothing_shared_and_repeated_phrases() -> None:
    explainer = Explainer(CORPUS)
    assert explainer.shared("", CORPUS[0]) == ()
    assert explainer.shared(PREFERENCE, "") == ()
    assert explainer.shared("lantern, Lantern; a lantern", CORPUS[0]) == (
        "lantern Lantern",
        "lantern",
    )


def test_a_single_sentence_consists_of_its_clauses() -> None:
    found = parts(PREFERENCE)
    assert found == ("for calm films", "that show a boat", "in Red colours")
    assert [without(PREFERENCE, part) for part in found] == [
        "The user appears to have a preference that show a boat in Red colours.",
        "The user appears to have a preference for calm films in Red colours.",
        "The user appears to have a preference for calm films that show a boat.",
    ]


def test_several_sentences_are_the_parts_themselves() -> None:
    text = "The user likes calm films. He avoids loud songs! Boats interest him."
    assert parts(text) == (
        "The user likes calm films.",
        "He avoids loud songs!",
        "Boats interest him.",
    )
    assert (
        without(text, "He avoids loud songs!") == "The user likes calm films. Boats interest him."
    )


@pytest.mark.parametrize("text", ["", " ", "Nothing.", "The user likes films"])
def test_what_cannot_be_cut_has_no_parts(text: str) -> None:
    assert parts(text) == ()


def test_words_that_only_begin_like_a_joint_are_no_joint() -> None:
    assert parts("The user likes indoor androids and forests.") == ("and forests",)


def test_words_without_content_are_no_reason_in_a_small_catalogue() -> None:
    explainer = Explainer(["The bell for the sea", "A lamp"])
    assert explainer.shared("The user likes the sea, for a start.", "The bell for the sea") == (
        "sea",
    )
