"""How much of a summary its source supports: a sign of a model that is out of its depth.

A model that knows what it reads takes most words of a summary from the title and text at hand; one
that does not invents them. The share says nothing about images, and a large model that rephrases
well scores below 1 with good reason: compare a model with itself on other data.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Words that carry no content, and those of the sentence around it ("a video called ...").
EMPTY_WORDS: Final = frozenset({
    "a", "about", "also", "an", "and", "are", "as", "at", "be", "by", "called", "can", "content",
    "entitled", "featuring", "film", "for", "from", "has", "in", "is", "it", "item", "its", "named",
    "of", "on", "or", "product", "showing", "shows", "that", "the", "their", "this", "title",
    "titled", "to", "video", "was", "which", "with",
})  # fmt: skip
_WORD: Final = re.compile(r"\w+")


def source_coverage(summary: str, source: str) -> float | None:
    """Share of a summary's content words that occur in what it summarises.

    Args:
        summary: What a model wrote.
        source: Title and text that it read.

    Returns:
        A share in [0, 1], None where the summary has no content words. Case, accents and
        punctuation do not matter; a word counts each time that it is said.

    Examples:
        >>> source_coverage("A calm video called Velora.", "Velora on a calm sea")
        1.0
        >>> source_coverage("A calm video about cooking.", "Quiet harbours")
        0.0
    """
    said = [word for word in _words(summary) if word not in EMPTY_WORDS]
    if not said:
        return None
    known = set(_words(source))
    return sum(word in known for word in said) / len(said)


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))
