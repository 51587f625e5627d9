"""What in a user's preference an item answers: the words that both texts share.

The recommender's probability says how likely an item is; these phrases say which part of the
written preference the item's summary meets. They are read off the two texts, no model is asked.
Whether they say what moves the model is measured by taking parts of the preference away
(`benchmarks/faithfulness.py`), for which `parts` cuts it up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from mllm_msr.summarization.faithfulness import EMPTY_WORDS

_WORD: Final = re.compile(r"[^\W_]+")
_LETTERS: Final = 3
_MOST_PHRASES: Final = 5

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+")
# A clause begins with one of these words, or after a comma or semicolon.
_CLAUSE: Final = re.compile(
    r"(?<=[,;])\s+|\s+(?=(?:about|and|by|featuring|for|from|in|on|or|showing|that|which|who|with)\b)",
    re.IGNORECASE,
)
_END: Final = ".!?"


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
            telling = len(word) >= _LETTERS and word.casefold() not in EMPTY_WORDS
            if telling and _stem(word) in held:
                run.append(word)
            elif run:
                phrase = " ".join(run)
                phrases.setdefault(phrase.casefold(), phrase)
                run = []
        return tuple(phrases.values())[:_MOST_PHRASES]


def parts(preference: str) -> tuple[str, ...]:
    """What a preference consists of: its sentences or, of a single one, its clauses.

    The beginning of a single sentence is no part, since nothing could stand without it.

    Args:
        preference: A written preference.

    Returns:
        The parts as they are written, in their order, each of which `without` can take away.

    Example:
        >>> parts("The user has a preference for calm films that show a boat in Red colours.")
        ('for calm films', 'that show a boat', 'in Red colours')
    """
    sentences = [part for part in _SENTENCE.split(preference.strip()) if part]
    if len(sentences) > 1:
        return tuple(sentences)
    clauses = _CLAUSE.split(preference.strip().rstrip(_END))[1:]
    return tuple(clause for clause in clauses if clause)


def without(preference: str, part: str) -> str:
    """A preference without one of its `parts`, its other words as they were.

    Example:
        >>> without("The user likes films about boats, and songs.", "about boats,")
        'The user likes films and songs.'
    """
    before, _, after = preference.partition(part)
    rest = f"{before.rstrip()} {after.lstrip()}".strip()
    return re.sub(r"\s+([.!?])", r"\1", rest)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _stem(word: str) -> str:
    """Singular and plural of most English item_types as one; other languages are left as they are."""
    folded = word.casefold()
    return folded[:-1] if len(folded) > _LETTERS and folded[-1] == "s" else folded
