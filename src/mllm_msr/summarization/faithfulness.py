"""Measures of generated texts: source coverage and repetition.

Source coverage is how much of a text occurs in the texts that the model read. A faithful summary
takes most of its words from the title and text of the item; a hallucinated one does not. It does
not cover images. A large model that rephrases its input has a coverage below 1 without being
unfaithful, so compare the same model on different data, not different models.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from statistics import fmean
from typing import Final

# Stop words, and words of the summary's sentence frame ("a video called ...").
STOP_WORDS: Final = frozenset({
    "a", "about", "also", "an", "and", "are", "as", "at", "be", "by", "called", "can", "content",
    "entitled", "featuring", "film", "for", "from", "has", "in", "is", "it", "item", "its", "named",
    "of", "on", "or", "product", "showing", "shows", "that", "the", "their", "this", "title",
    "titled", "to", "video", "was", "which", "with",
})  # fmt: skip
_WORD: Final = re.compile(r"\w+")


def source_coverage(summary: str, source: str) -> float | None:
    """Return the share of a summary's content words that occur in its source.

    Case, accents and punctuation are ignored. A repeated word counts each time.

    Args:
        summary: Text that a model generated.
        source: Title and text that the model read.

    Returns:
        A share in [0, 1], or `None` if the summary has no content words.

    Examples:
        >>> source_coverage("A calm video called Velora.", "Velora on a calm sea")
        1.0
        >>> source_coverage("A calm video about cooking.", "Quiet harbors")
        0.0
    """
    content = [word for word in _words(summary) if word not in STOP_WORDS]
    if not content:
        return None
    in_source = set(_words(source))
    return sum(word in in_source for word in content) / len(content)


def repetition(text: str) -> float:
    """Return the share of a text's word triples that occur earlier in it.

    Args:
        text: Text that a model generated.

    Returns:
        A share in [0, 1); 0 for a text with fewer than four words.

    Examples:
        >>> repetition("a calm film about a calm sea")
        0.0
        >>> repetition("a calm film, a calm film")
        0.25
    """
    words = _words(text)
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def mean_measures(pairs: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Return the mean source coverage and repetition of texts, under the names of the manifest.

    Args:
        pairs: Each generated text, and all that the model read for it.

    Returns:
        `source_coverage`, unless no text has content words, and `repetition`, unless there is no
        text.
    """
    texts = list(pairs)
    shares = [source_coverage(text, source) for text, source in texts]
    measures = {
        "source_coverage": [share for share in shares if share is not None],
        "repetition": [repetition(text) for text, _ in texts],
    }
    return {name: round(fmean(values), 4) for name, values in measures.items() if values}


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))
