"""Source coverage: how much of a summary occurs in the text it summarizes.

A faithful summary takes most of its words from the title and text of the item; a hallucinated one
does not. The measure does not cover images. A large model that rephrases its input has a coverage
below 1 without being unfaithful, so compare the same model on different data, not different models.
"""

from __future__ import annotations

import re
import unicodedata
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


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))
