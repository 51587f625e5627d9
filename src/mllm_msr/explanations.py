"""What in a user's preference an item answers: the words that both texts share.

The recommender's probability says how likely an item is; these phrases say which part of the
written preference the item's summary meets. They are read off the two texts, no model is asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

_WORD: Final = re.compile(r"[^\W_]+")
_LETTERS: Final = 3
_MOST_PHRASES: Final = 5


class Explainer:
    """Finds what a preference and a summary share, except for what nearly all summaries say.

    Args:
        corpus: Summaries of the catalogue.
        common: Share of the summaries, in (0, 1], from which on a word says nothing.
    """

    def __init__(self, corpus: Sequence[str], *, common: float = 0.5) -> None:
        found = Counter(stem for text in corpus for stem in {_stem(w) for w in _words(text)})
        self._idle = frozenset(stem for stem, n in found.items() if n > common * len(corpus))

    def shared(self, preference: str, summary: str) -> tuple[str, ...]:
        """Phrases of the preference that the summary holds too.

        Args:
            preference: A written preference.
            summary: An item's summary.

        Returns:
            At most five phrases as the preference writes them, in its order, each once.

        Example:
            >>> explainer = Explainer(["a calm film", "a loud song", "a calm song"], common=0.9)
            >>> explainer.shared("The user likes calm films.", "a calm film")
            ('calm films',)
        """
        held = {_stem(word) for word in _words(summary)} - self._idle
        phrases: dict[str, str] = {}
        run: list[str] = []
        for word in [*_words(preference), ""]:
            if len(word) >= _LETTERS and _stem(word) in held:
                run.append(word)
            elif run:
                phrase = " ".join(run)
                phrases.setdefault(phrase.casefold(), phrase)
                run = []
        return tuple(phrases.values())[:_MOST_PHRASES]


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _stem(word: str) -> str:
    """Singular and plural of most English nouns as one; other languages are left as they are."""
    folded = word.casefold()
    return folded[:-1] if len(folded) > _LETTERS and folded[-1] == "s" else folded
