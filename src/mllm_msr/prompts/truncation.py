"""Truncation of prompts: shorten their trimmable parts to a number of words.

`models/inputs.py` and `backends/_http/chat_format.py` search for the largest number of words that
meets a token budget. Only trimmable parts are shortened, from their end and in the order of
`TextPart.trimmable`; instructions and images are never cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from mllm_msr.types import Part, Prompt, TextPart

# A word with the space before it. Text without spaces, as in some scripts, is split into pieces of
# 32 characters.
_WORD: Final = re.compile(r"\s*\S{1,32}")


def count_words(prompt: Prompt) -> int:
    """Return the number of words in the trimmable parts of a prompt."""
    return sum(len(_WORD.findall(part.text)) for part in _trimmable_parts(prompt))


def cut(prompt: Prompt, n_words: int) -> Prompt:
    """Return a prompt that keeps only some words of its trimmable parts.

    Args:
        prompt: Any prompt.
        n_words: Number of words to keep in all trimmable parts together. Parts with a higher
            `TextPart.trimmable` are shortened last.
    """
    n_left = n_words
    shortened: dict[Part, Part] = {}
    for part in sorted(_trimmable_parts(prompt), key=lambda part: -part.trimmable):
        words = _WORD.findall(part.text)[:n_left]
        n_left -= len(words)
        shortened[part] = replace(part, text="".join(words))
    messages = tuple(
        replace(message, parts=tuple(shortened.get(part, part) for part in message.parts))
        for message in prompt.messages
    )
    return replace(prompt, messages=messages)


def _trimmable_parts(prompt: Prompt) -> Iterator[TextPart]:
    for part in prompt.parts:
        if isinstance(part, TextPart) and part.trimmable:
            yield part
