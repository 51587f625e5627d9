"""Thoughts of reasoning models: remove them from answers, and find them in prompts and tokens.

Reasoning models write their thoughts before the answer, in markup that differs between families.
Servers with a reasoning parser and chat templates that turn thinking off avoid them; otherwise the
answer is what remains after the last thought. Used by the output checks for answers of all
backends, and by backends to recognize prompts that cannot be scored.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_NAMES: Final = (
    r"(?:[a-z]{1,12}[:_])?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
)

# Tags of Qwen, DeepSeek, GLM and others; Mistral; Kimi; Cohere; OpenThinker; Gemma; gpt-oss.
_OPEN: Final = (
    rf"<{_NAMES}(?:\s[^<>]{{0,80}})?>|(?-i:\[THINK\])|\u25c1think\u25b7|<\|START_THINKING\|>"
    r"|<\|begin_of_thought\|>|<unused94>|<\|channel>"
    r"|<\|channel\|>(?!\s*final)(?:[^<]{0,80}<\|message\|>)?"
)
_CLOSE: Final = (
    rf"</{_NAMES}\s*>|(?-i:\[/THINK\])|\u25c1/think\u25b7|<\|END_THINKING\|>|<\|end_of_thought\|>"
    r"|<unused95>|<channel\|>|<\|channel\|>\s*final(?:[^<]{0,80}<\|message\|>)?"
    r"|(?-i:\[BEGIN FINAL RESPONSE\])"
)
# Markup around an answer.
_WRAPPER: Final = (
    r"</?(?:final_)?answer>|<\|(?:begin|end)_of_(?:box|solution)\|>|<\|(?:START|END)_RESPONSE\|>"
    r"|<\|start\|>\s*assistant|<\|(?:end|return|message)\|>|(?-i:\[END FINAL RESPONSE\])"
)
_MARK: Final = re.compile(
    f"(?P<open>{_OPEN})|(?P<close>{_CLOSE})|(?P<wrapper>{_WRAPPER})", re.IGNORECASE
)
# Thoughts without tags: the beginning of the text, and the end of the thought. The first are those
# of gpt-oss if the server drops special tokens.
_UNTAGGED: Final = (
    (re.compile(r"\s*(?:analysis|commentary)(?=[^\sa-z])"), re.compile(r"assistant\s*final")),
    (
        re.compile(r"\s*here (?:is|are) my (?:thought process|reasoning steps):", re.IGNORECASE),
        re.compile(r"here is my response:|\[BEGIN FINAL RESPONSE\]", re.IGNORECASE),
    ),
)


class Answer(NamedTuple):
    """The answer in a generated text.

    Attributes:
        text: The answer without thoughts and surrounding white space; empty if `is_unfinished`.
        is_unfinished: Whether the text ends within a thought.
    """

    text: str
    is_unfinished: bool = False


def remove_thoughts(text: str) -> Answer:
    """Return the answer in a generated text.

    A closing tag without an opening one ends a thought that the prompt began, so that everything
    before it is a thought as well.

    Args:
        text: Text that a model generated.

    Examples:
        >>> remove_thoughts("<think>A lantern, so calm.</think> A calm film.").text
        'A calm film.'
        >>> remove_thoughts("A lantern, so calm.</think> A calm film.").text
        'A calm film.'
        >>> remove_thoughts("<think>A lantern, so")
        Answer(text='', is_unfinished=True)
    """
    for start, end in _UNTAGGED:
        if start.match(text):
            _, *rest = end.split(text)
            if not rest:
                return Answer("", is_unfinished=True)
            text = rest[-1]
    pieces: list[str] = []
    position, is_inside = 0, False
    for mark in _MARK.finditer(text):
        if not is_inside:
            pieces.append(text[position : mark.start()])
        if mark["open"]:
            is_inside = True
        elif mark["close"]:
            if not is_inside:
                pieces.clear()
            is_inside = False
        position = mark.end()
    if is_inside:
        return Answer("", is_unfinished=True)
    return Answer("".join([*pieces, text[position:]]).strip())


def opens_thought(text: str) -> bool:
    """Return whether a text, such as the end of a rendered prompt, ends within a thought."""
    marks = [mark for mark in _MARK.finditer(text) if not mark["wrapper"]]
    return bool(marks) and marks[-1]["open"] is not None


def closes_thought(text: str) -> bool:
    """Return whether a text closes a thought that it has not opened."""
    marks = (mark for mark in _MARK.finditer(text) if not mark["wrapper"])
    first = next(marks, None)
    return first is not None and first["close"] is not None


def is_mark(token: str) -> bool:
    """Return whether a token is markup of thoughts or of the answer after them."""
    return _MARK.match(token.strip()) is not None
