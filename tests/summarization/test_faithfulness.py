"""Source coverage and repetition of texts, against values computed by hand."""

from __future__ import annotations

import doctest

import pytest

from mllm_msr.summarization import faithfulness
from mllm_msr.summarization.faithfulness import mean_measures, repetition, source_coverage


@pytest.mark.parametrize(
    ("summary", "source", "share"),
    [
        ("A video called Garden of Dreams.", "garden of dreams (1999)", 1.0),
        ("A funny video about sports called Garden.", "Garden of dreams", 1 / 3),
        ("Un café à Orly", "CAFE A ORLY, un matin", 1.0),
        ("A film called 千と千尋.", "千と千尋", 1.0),
        ("It is a video.", "Anything", None),
        ("", "Anything", None),
        ("Lantern lantern", "", 0.0),
    ],
)
def test_share_of_content_words_in_the_source(
    summary: str, source: str, share: float | None
) -> None:
    assert source_coverage(summary, source) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two three", 0.0),
        ("Red lantern! red Lantern red lantern red", 3 / 5),
        ("a red lantern, a red lantern", 1 / 4),
    ],
)
def test_share_of_word_triples_that_occur_again(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)


def test_means_over_texts_leave_out_what_is_undefined() -> None:
    pairs = [("A calm film", "calm"), ("It is a film", "x"), ("a b c a b c", "")]
    assert mean_measures(pairs) == {"source_coverage": 0.5, "repetition": 0.0833}
    assert mean_measures([("It is a film", "x")]) == {"repetition": 0.0}
    assert mean_measures([]) == {}


def test_docstring_examples() -> None:
    assert doctest.testmod(faithfulness).failed == 0
