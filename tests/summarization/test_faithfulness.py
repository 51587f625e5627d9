import pytest

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
def test_content_words_are_looked_up_in_the_source(summary, source, share):
    assert source_coverage(summary, source) == pytest.approx(share)
