"""What a preference and a summary share, as the preference writes it."""

from __future__ import annotations

from mllm_msr.explanations import Explainer

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
