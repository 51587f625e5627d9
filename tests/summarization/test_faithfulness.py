"""Source coverage of summaries, against values computed by hand."""

from __future__ import annotations

import doctest

import pytest

from mllm_msr.summarization import faithfulness
from mllm_msr.summarization.faithfulness import source_coverage


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


def test_docstring_examples() -> None:
    assert doctest.testmod(faithfulness).failed == 0
