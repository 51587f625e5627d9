"""Explanations of recommendations: what an item shares with a preference or a history.

A ranker that reads the preference is explained by the phrases in it that match an item's summary,
and one that reads the history by the similar items in it; with collaborative tokens, by those with
similar vectors (`ItemCatalog.matches`). They are computed without a model call. To measure whether
they drive the model's score, `benchmarks/faithfulness.py` removes items of the history, or parts of
the preference, into which `preference_parts` splits the text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from mllm_msr.summarization.faithfulness import STOP_WORDS

_WORD: Final = re.compile(r"[^\W_]+")
_MIN_LETTERS: Final = 3
_MAX_PHRASES: Final = 5
# Similar items of a history that explain a recommendation.
MAX_TITLES: Final = 3

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+")
# A clause begins with one of these words, or after a comma or semicolon.
_CLAUSE: Final = re.compile(
    r"(?<=[,;])\s+|\s+(?=(?:about|and|by|featuring|for|from|in|on|or|showing|that|which|who|with)\b)",
    re.IGNORECASE,
)
_SENTENCE_END: Final = ".!?"


class Explainer:
    """Finder of phrases that a preference and a summary share.

    Words that occur in most summaries of the catalog are ignored.

    Args:
        corpus: Summaries of the catalog.
        common: Share of the summaries, in (0, 1], above which a word is ignored.
    """

    def __init__(self, corpus: Sequence[str], *, common: float = 0.5) -> None:
        counts = Counter(stem for text in corpus for stem in _stems(text))
        self._ignored = frozenset(stem for stem, n in counts.items() if n > common * len(corpus))

    def matches(self, preference: str, summary: str) -> tuple[str, ...]:
        """Return the phrases of a preference that also occur in a summary.

        Singular and plural of a word match.

        Args:
            preference: A written preference.
            summary: Summary of an item.

        Returns:
            At most five phrases in the words and order of the preference, without duplicates.

        Example:
            >>> explainer = Explainer(["a calm film", "a loud song", "a calm song"], common=0.9)
            >>> explainer.matches("The user likes calm films.", "a calm film")
            ('calm films',)
        """
        in_summary = _stems(summary) - self._ignored
        phrases: dict[str, str] = {}
        phrase: list[str] = []
        for word in [*_WORD.findall(preference), ""]:
            has_content = len(word) >= _MIN_LETTERS and word.casefold() not in STOP_WORDS
            if has_content and _stem(word) in in_summary:
                phrase.append(word)
            elif phrase:
                text = " ".join(phrase)
                phrases.setdefault(text.casefold(), text)
                phrase = []
        return tuple(phrases.values())[:_MAX_PHRASES]

    def similar(self, described: Mapping[str, str], summary: str) -> tuple[str, ...]:
        """Return the items of a history that have the most words in common with a summary.

        Args:
            described: Summaries of the items by title, the latest first.
            summary: Summary of a candidate.

        Returns:
            At most three titles, the most similar first; items without a common word are left out.

        Example:
            >>> explainer = Explainer(["calm sea film", "loud song", "calm song"], common=0.9)
            >>> explainer.similar({"Waves": "calm sea film", "Drums": "loud song"}, "a calm film")
            ('Waves',)
        """
        wanted = self._content(summary)
        shared = {title: len(wanted & self._content(text)) for title, text in described.items()}
        ranked = sorted((title for title in shared if shared[title]), key=lambda one: -shared[one])
        return tuple(ranked[:MAX_TITLES])

    def _content(self, text: str) -> set[str]:
        """Return the stems of the words that matter in a text: no numbers or frequent words."""
        words = (word.casefold() for word in _WORD.findall(text))
        kept = {word for word in words if len(word) >= _MIN_LETTERS and not word.isdigit()}
        return {_stem(word) for word in kept - STOP_WORDS} - self._ignored


def preference_parts(preference: str) -> tuple[str, ...]:
    """Split a preference into its sentences or, if it is a single sentence, into its clauses.

    The beginning of a single sentence is not a part, because the rest depends on it.

    Args:
        preference: A written preference.

    Returns:
        The parts as written, in order. `without_part` removes one of them.

    Example:
        >>> preference_parts("The user has a preference for calm films that show a boat in Red.")
        ('for calm films', 'that show a boat', 'in Red')
    """
    sentences = [part for part in _SENTENCE.split(preference.strip()) if part]
    if len(sentences) > 1:
        return tuple(sentences)
    clauses = _CLAUSE.split(preference.strip().rstrip(_SENTENCE_END))[1:]
    return tuple(clause for clause in clauses if clause)


def without_part(preference: str, part: str) -> str:
    """Remove one part, see `preference_parts`, from a preference.

    Example:
        >>> without_part("The user likes films about boats, and songs.", "about boats,")
        'The user likes films and songs.'
    """
    before, _, after = preference.partition(part)
    rest = f"{before.rstrip()} {after.lstrip()}".strip()
    return re.sub(r"\s+([.!?])", r"\1", rest)


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in _WORD.findall(text)}


def _stem(word: str) -> str:
    """Map the singular and plural of most English words to one form."""
    folded = word.casefold()
    return folded[:-1] if len(folded) > _MIN_LETTERS and folded[-1] == "s" else folded
