"""Answers that can be used: what a model wrote is looked at before a stage believes it.

Between the stages that ask for text (`summarization/items.py`, `summarization/preferences.py`; the paper's first two
steps) and whatever backend answers them, local or remote. A model may write nothing, repeat its
instructions, repeat itself, refuse, or fall into another language or into noise. Such an answer
is asked for again with one sentence more, at most twice; what is still unusable comes back as a
failure of its prompt, for which each stage has a fallback of its own, and is flagged.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from mllm_msr.interfaces import Backend
from mllm_msr.types import Completion, Message, Prompt, TextPart

Fault = Literal["empty", "prompt_echo", "repetition_loop", "garbage", "refusal", "language"]

_REMINDERS: Final = (
    "Answer in plain English sentences, in your own words, and then stop.",
    "Write one short English sentence and nothing else.",
)

# An answer may begin as its prompt says ("The user appears to have a preference for", 7 words).
_ECHO_WORDS: Final = 12
_LOOP_WORDS: Final = 24
_LOOP_LETTERS: Final = 60  # no word of a language is that long
_LANGUAGE_WORDS: Final = 16
_REFUSAL: Final = re.compile(
    r"\W*((i am|i'm) (very )?(sorry|unable|not able|afraid)|sorry\b|i (can ?not|can't|won't)\b"
    r"|as an? (ai|artificial|large|language)\b|unfortunately, i\b)",
    re.IGNORECASE,
)
_COMMON: Final = frozenset(
    {"a", "an", "and", "are", "as", "at", "by", "for", "from", "has", "in", "is", "it", "its"}
    | {"of", "on", "or", "that", "the", "their", "this", "to", "with"}
)
_QUOTED: Final = re.compile(r'"[^"]*"')
_WORD: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion and what it took to get it.

    Attributes:
        completion: Usable, or with `error` set.
        new_tries: How often it was asked for again.
        fault: What is wrong with the last try where none was usable; `None` where it is, and
            where the backend itself failed.
    """

    completion: Completion
    new_tries: int = 0
    fault: Fault | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """What a table should say of it: "retried", or the fault."""
        if self.fault is not None:
            return (self.fault,)
        return ("retried",) if self.new_tries and self.completion.error is None else ()


def ask(
    backend: Backend, prompts: Iterable[Prompt], *, max_new_tries: int = 2
) -> Iterator[tuple[int, Answer]]:
    """Answers to prompts, unusable ones asked for again.

    Args:
        backend: Answers the prompts.
        prompts: Any number of prompts; those that are under way are held.
        max_new_tries: How often an unusable answer is asked for again, 0 to 2.

    Yields:
        Each prompt's index and its answer, usable ones as they come, the others at the end.
    """
    under_way: dict[int, Prompt] = {}

    def remembered() -> Iterator[Prompt]:
        for index, prompt in enumerate(prompts):
            under_way[index] = prompt
            yield prompt

    again: dict[int, Prompt] = {}
    last: dict[int, Answer] = {}
    for index, completion in backend.generate(remembered()):
        prompt = under_way.pop(index)
        answer = _judged(prompt, completion)
        if answer.fault is None or not max_new_tries:
            yield index, answer
        else:
            again[index], last[index] = prompt, answer
    for new_try in range(1, max_new_tries + 1):
        asked = list(again)
        reminded = [_reminded(again[index], _REMINDERS[new_try - 1]) for index in asked]
        for position, completion in backend.generate(reminded) if asked else ():
            index = asked[position]
            last[index] = replace(_judged(again[index], completion), new_tries=new_try)
            if last[index].fault is None or new_try == max_new_tries:
                yield index, last[index]
                del again[index]


def find_fault(text: str, prompt: Prompt | None = None) -> Fault | None:
    """What makes an answer unusable, `None` where nothing does.

    The rules are chosen to let a terse or clumsy answer pass: a wrong alarm costs a fallback.

    Args:
        text: The answer.
        prompt: What was asked; tells an echo.

    Example:
        >>> find_fault("A calm film with a red lantern.")
        >>> find_fault("I'm sorry, but I cannot help with that.")
        'refusal'
        >>> find_fault("a red lantern " * 30)
        'repetition_loop'
    """
    if not text.strip():
        return "empty"
    words = [word.lower() for word in _WORD.findall(text)]
    found: dict[Fault, bool] = {
        "garbage": _is_garbage(text, words),
        "refusal": _REFUSAL.match(text) is not None,
        "repetition_loop": _is_endless(words),
        "language": _is_external(text, words),
        "prompt_echo": prompt is not None and _is_echo(words, prompt),
    }
    return next((fault for fault, is_so in found.items() if is_so), None)


def _judged(prompt: Prompt, completion: Completion) -> Answer:
    if completion.error is not None:
        return Answer(completion)
    fault = find_fault(completion.text, prompt)
    if fault is None:
        return Answer(completion)
    error = f"the answer is unusable ({fault}): {completion.text[:60]!r}"
    return Answer(replace(completion, text="", finish_reason="error", error=error), fault=fault)


def _reminded(prompt: Prompt, reminder: str) -> Prompt:
    """The same prompt with one sentence more at its end; greedy models need another question."""
    *before, last = prompt.messages
    parts = (*last.parts, TextPart(f"\n{reminder}"))
    return replace(prompt, messages=(*before, Message(last.role, parts)))


def _is_garbage(text: str, words: list[str]) -> bool:
    """Whether most of it is no writing: replacement characters, symbols, digits alone."""
    visible = "".join(text.split())
    letters = sum(map(str.isalpha, visible))
    if visible.isascii():
        written = sum(map(str.isalnum, visible))
    else:
        written = sum(unicodedata.category(char)[0] in "LMN" for char in visible)
    return not words or written < 0.6 * len(visible) or letters < 0.3 * len(visible)


def _is_endless(words: Sequence[str]) -> bool:
    """Whether a long answer, or a long word in it, says the same over and over."""
    return _repeats(words, _LOOP_WORDS) or any(_repeats(word, _LOOP_LETTERS) for word in words)


def _repeats(units: Sequence[str], at_least: int) -> bool:
    triples = list(zip(units, units[1:], units[2:], strict=False))
    return len(units) >= at_least and len(set(triples)) < 0.4 * len(triples)


def _is_external(text: str, words: list[str]) -> bool:
    """Whether it is written in another script, or at length without any common English word."""
    if not text.isascii():
        letters = [char for char in text if char.isalpha()]
        latin = sum(unicodedata.name(char, "").startswith("LATIN") for char in letters)
        if latin < 0.5 * len(letters):
            return True
    return len(words) >= _LANGUAGE_WORDS and _COMMON.isdisjoint(words)


def _is_echo(words: list[str], prompt: Prompt) -> bool:
    """Whether it repeats the instructions; what stands between quotes is data and may recur."""
    asked = " ".join(
        part.text
        for message in prompt.messages
        for part in message.parts
        if isinstance(part, TextPart)
    )
    instructions = [word.lower() for word in _WORD.findall(_QUOTED.sub(" | ", asked))]
    runs = {tuple(instructions[n : n + _ECHO_WORDS]) for n in range(len(instructions))}
    return any(
        tuple(words[n : n + _ECHO_WORDS]) in runs for n in range(len(words) - _ECHO_WORDS + 1)
    )
