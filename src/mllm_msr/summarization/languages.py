"""Languages of answers (`prompts.language`): check an answer by its script and common words.

The check is coarse, because a false positive replaces an answer by a fallback. At least half of the
letters must belong to the script of the language. In a language with Latin letters, a long text
with many common English words counts as English. A language that is not listed is not checked.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mllm_msr.prompts.item_types import ENGLISH

# Shorter texts need not contain a common word.
_MIN_WORDS: Final = 16
# Common words are a third or more of an English text; other languages share a few of them.
_ENGLISH_SHARE: Final = 0.25
_COMMON_WORDS: Final = frozenset(
    {"a", "an", "and", "are", "as", "at", "by", "for", "from", "has", "in", "is", "it", "its"}
    | {"of", "on", "or", "that", "the", "their", "this", "to", "with"}
)


@dataclass(frozen=True, slots=True)
class _Script:
    """Script of a language.

    Attributes:
        names: First words of the Unicode names of its letters.
        sample: Five letters that stand for the vowels in a sample text.
    """

    names: tuple[str, ...]
    sample: str


_LATIN: Final = _Script(("LATIN",), "\u00e4\u00eb\u00ef\u00f6\u00fc")
_ARABIC: Final = _Script(("ARABIC",), "\u0627\u0628\u062a\u062b\u062c")
_CYRILLIC: Final = _Script(("CYRILLIC",), "\u0430\u0435\u0438\u043e\u0443")
_DEVANAGARI: Final = _Script(("DEVANAGARI",), "\u0905\u0906\u0907\u0908\u0909")
_LATIN_LANGUAGES: Final = (
    "Catalan Croatian Czech Danish Dutch Estonian Filipino Finnish French German Hungarian "
    "Icelandic Indonesian Italian Latvian Lithuanian Malay Norwegian Polish Portuguese Romanian "
    "Slovak Slovenian Spanish Swahili Swedish Turkish Vietnamese"
)
_SCRIPTS: Final[Mapping[str, _Script]] = MappingProxyType(
    {
        **dict.fromkeys(_LATIN_LANGUAGES.lower().split(), _LATIN),
        **dict.fromkeys(("arabic", "persian", "urdu"), _ARABIC),
        **dict.fromkeys(("belarusian", "bulgarian", "kazakh", "russian", "ukrainian"), _CYRILLIC),
        **dict.fromkeys(("hindi", "marathi", "nepali"), _DEVANAGARI),
        "bengali": _Script(("BENGALI",), "\u0985\u0986\u0987\u0988\u0989"),
        "chinese": _Script(("CJK",), "\u5c71\u6c34\u706b\u6728\u571f"),
        "greek": _Script(("GREEK",), "\u03b1\u03b5\u03b9\u03bf\u03c5"),
        "hebrew": _Script(("HEBREW",), "\u05d0\u05d1\u05d2\u05d3\u05d4"),
        "japanese": _Script(("HIRAGANA", "KATAKANA", "CJK"), "\u3042\u3044\u3046\u3048\u304a"),
        "korean": _Script(("HANGUL",), "\uac00\ub098\ub2e4\ub77c\ub9c8"),
        "tamil": _Script(("TAMIL",), "\u0b85\u0b86\u0b87\u0b88\u0b89"),
        "thai": _Script(("THAI",), "\u0e01\u0e02\u0e04\u0e07\u0e08"),
    }
)


def is_other_language(text: str, words: Sequence[str], language: str = ENGLISH) -> bool:
    """Return whether an answer is clearly not in a language.

    Args:
        text: The answer.
        words: Its words, in lower case.
        language: English name of the language ("German", "Simplified Chinese").

    Example:
        >>> is_other_language("Это спокойный фильм", ["это", "спокойный", "фильм"], "Russian")
        False
    """
    if language == ENGLISH:
        if not text.isascii() and _script_share(text, _LATIN) < 0.5:
            return True
        return len(words) >= _MIN_WORDS and _COMMON_WORDS.isdisjoint(words)
    script = _find_script(language)
    if script is None:
        return False
    if _script_share(text, script) < 0.5:
        return True
    n_english = sum(word in _COMMON_WORDS for word in words)
    return len(words) >= _MIN_WORDS and n_english >= _ENGLISH_SHARE * len(words)


def sample_text(text: str, language: str) -> str:
    """Return an English text with other letters, so that it passes the check of a language.

    Cost estimates use it in place of answers: its length is that of the text.
    """
    script = _find_script(language)
    if language == ENGLISH or script is None:
        return text
    if script is _LATIN:
        return text.translate(str.maketrans("aeiou", script.sample))
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    return text.translate(str.maketrans(alphabet, (script.sample * 6)[: len(alphabet)]))


def _find_script(language: str) -> _Script | None:
    """Return the script of the language in a name such as "Brazilian Portuguese", or None."""
    found = (_SCRIPTS.get(word) for word in language.lower().replace("-", " ").split())
    return next((script for script in found if script is not None), None)


def _script_share(text: str, script: _Script) -> float:
    """Return the fraction of the letters of a text that belong to a script; 1 without letters."""
    letters = [char for char in text if char.isalpha()]
    n_found = sum(unicodedata.name(char, "").startswith(script.names) for char in letters)
    return n_found / len(letters) if letters else 1.0
