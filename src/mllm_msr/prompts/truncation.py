"""Cutting the trimmable parts of a prompt to a number of words, for `models/inputs.py`.

A token budget never takes from instructions, images or the answer; it takes from the end of the
parts that may be cut, in their turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from mllm_msr.types import Part, Prompt, TextPart

# A word with the space before it. Long runs without a space, as in scripts that have none, are
# cut as well.
_WORD: Final = re.compile(r"\s*\S{1,32}")


def count_words(prompt: Prompt) -> int:
    """Number of words in the trimmable parts."""
    return sum(len(_WORD.findall(part.text)) for part in _trimmable(prompt))


def cut(prompt: Prompt, n_words: int) -> Prompt:
    """The prompt with the first `n_words` words of its trimmable parts.

    Args:
        prompt: Any prompt.
        n_words: How many words stay in all; those of parts whose turn is last stay longest.
    """
    left = n_words
    kept: dict[Part, Part] = {}
    for part in sorted(_trimmable(prompt), key=lambda part: -part.trimmable):
        words = _WORD.findall(part.text)[:left]
        left -= len(words)
        kept[part] = replace(part, text="".join(words))
    messages = tuple(
        replace(message, parts=tuple(kept.get(part, part) for part in message.parts))
        for message in prompt.messages
    )
    return replace(prompt, messages=messages)


def _trimmable(prompt: Prompt) -> Iterator[TextPart]:
    for message in prompt.messages:
        for part in message.parts:
            if isinstance(part, TextPart) and part.trimmable:
                yield part
