"""Checks of generated text, and retries of prompts whose answers are unusable.

Used by the two steps that generate text (`summarization/items.py`, `summarization/preferences.py`)
with any backend. Thoughts of reasoning models are removed from an answer first. A model may return
an empty answer or only a thought, repeat the prompt or itself, refuse, switch to another language,
or produce noise. Such a prompt is retried with an additional instruction at its end. If no retry
gives a usable answer, the prompt fails with a fault; each step then uses its own fallback and
records the fault as a flag.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from mllm_msr.interfaces import Backend
from mllm_msr.prompts.item_types import ENGLISH
from mllm_msr.prompts.thoughts import remove_thoughts
from mllm_msr.summarization.languages import is_other_language
from mllm_msr.types import Completion, Message, Prompt, TextPart

Fault = Literal["empty", "garbage", "refusal", "repetition_loop", "language", "prompt_echo"]

# Added to a prompt at its first and second retry. With greedy decoding, an unchanged prompt would
# get the same answer again.
_RETRY_INSTRUCTIONS: Final = (
    "Answer in plain {language} sentences, in your own words, and then stop.",
    "Write one short {language} sentence and nothing else.",
)

# Longer than the opening that the prompt asks answers to repeat ("The user appears to have a
# preference for", 8 words).
_ECHO_WORDS: Final = 12
_LOOP_WORDS: Final = 24
_LOOP_LETTERS: Final = 60  # longer than the words of any language
# Far longer than any answer with thoughts. A server may ignore `max_new_tokens`.
_MAX_CHARACTERS: Final = 1_000_000
_REFUSAL: Final = re.compile(
    r"\W*((i am|i'm) (very )?(sorry|unable|not able|afraid)|sorry\b|i (can ?not|can't|won't)\b"
    r"|as an? (ai|artificial|large|language)\b|unfortunately, i\b)",
    re.IGNORECASE,
)
_QUOTED: Final = re.compile(r'"[^"]*"')
_WORD: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class CheckedCompletion:
    """A completion and the result of its check.

    Attributes:
        completion: A usable completion, or one with `error` set.
        n_retries: Number of retries of the prompt.
        fault: Fault of the last answer if no answer was usable; `None` if the answer is usable or
            if the backend itself failed.
    """

    completion: Completion
    n_retries: int = 0
    fault: Fault | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """Return the flags for the table: the fault, "retried", or none."""
        if self.fault is not None:
            return (self.fault,)
        return ("retried",) if self.n_retries and self.completion.error is None else ()


def generate_checked(
    backend: Backend,
    prompts: Iterable[Prompt],
    *,
    language: str = ENGLISH,
    max_retries: int = 2,
) -> Iterator[tuple[int, CheckedCompletion]]:
    """Generate answers, check them, and retry prompts whose answers are unusable.

    Args:
        backend: Backend that answers the prompts.
        prompts: Any number of prompts. A prompt is held in memory until its answer is usable.
        language: Language of the answers, see `languages.is_other_language`.
        max_retries: Maximum number of retries per prompt, 0 to 2.

    Yields:
        The index of each prompt and its checked completion, exactly once: usable ones as the
        backend returns them, the others at the end.
    """
    pending: dict[int, Prompt] = {}

    def remember(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
        for index, prompt in enumerate(prompts):
            pending[index] = prompt
            yield prompt

    to_retry: dict[int, Prompt] = {}
    for index, completion in backend.generate(remember(prompts)):
        prompt = pending.pop(index)
        checked = _check(prompt, completion, language, n_retries=0)
        if checked.fault is None or not max_retries:
            yield index, checked
        else:
            to_retry[index] = prompt
    for n_retries in range(1, max_retries + 1):
        indices = list(to_retry)
        retries = [
            _with_instruction(
                to_retry[index], _RETRY_INSTRUCTIONS[n_retries - 1].format(language=language)
            )
            for index in indices
        ]
        for position, completion in backend.generate(retries) if retries else ():
            index = indices[position]
            checked = _check(to_retry[index], completion, language, n_retries=n_retries)
            if checked.fault is None or n_retries == max_retries:
                yield index, checked
                del to_retry[index]


def find_fault(text: str, prompt: Prompt | None = None, *, language: str = ENGLISH) -> Fault | None:
    """Return what makes an answer unusable, or `None` if it is usable.

    The rules accept terse and clumsy answers, because a false positive replaces an answer by a
    fallback.

    Args:
        text: The answer.
        prompt: The prompt, which is required to detect a prompt echo.
        language: Language of the answer, see `languages.is_other_language`.

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
        # The same words over and over, or the same letters within a word.
        "repetition_loop": _repeats(words, min_length=_LOOP_WORDS)
        or any(_repeats(word, min_length=_LOOP_LETTERS) for word in words),
        "language": is_other_language(text, words, language),
        "prompt_echo": prompt is not None and _is_prompt_echo(words, prompt),
    }
    return next((fault for fault, is_found in found.items() if is_found), None)


def _check(
    prompt: Prompt, completion: Completion, language: str, *, n_retries: int
) -> CheckedCompletion:
    if completion.error is not None:
        return CheckedCompletion(completion, n_retries)
    answer = remove_thoughts(completion.text[:_MAX_CHARACTERS])
    fault = find_fault(answer.text, prompt, language=language)
    if fault is None:
        return CheckedCompletion(replace(completion, text=answer.text), n_retries)
    error = f"the answer is unusable ({fault}): {completion.text[:60]!r}"
    if answer.is_unfinished:
        error += (
            f". The model's thoughts did not end within {completion.output_tokens} tokens; turn "
            "them off (for an endpoint, see model.extra) or use a model without thoughts"
        )
    failed = replace(completion, text="", finish_reason="error", error=error)
    return CheckedCompletion(failed, n_retries, fault)


def _with_instruction(prompt: Prompt, instruction: str) -> Prompt:
    *earlier, last = prompt.messages
    parts = (*last.parts, TextPart(f"\n{instruction}"))
    return replace(prompt, messages=(*earlier, Message(last.role, parts)))


def _is_garbage(text: str, words: Sequence[str]) -> bool:
    """Return whether text is mostly replacement characters, symbols or digits."""
    visible = "".join(text.split())
    n_letters = sum(map(str.isalpha, visible))
    if visible.isascii():
        n_written = sum(map(str.isalnum, visible))
    else:
        n_written = sum(unicodedata.category(char)[0] in "LMN" for char in visible)
    return not words or n_written < 0.6 * len(visible) or n_letters < 0.3 * len(visible)


def _repeats(units: Sequence[str], *, min_length: int) -> bool:
    """Return whether a long sequence has few distinct triples."""
    triples = list(zip(units, units[1:], units[2:], strict=False))
    return len(units) >= min_length and len(set(triples)) < 0.4 * len(triples)


def _is_prompt_echo(words: Sequence[str], prompt: Prompt) -> bool:
    """Return whether words repeat a prompt's instructions; repeating its quoted data is allowed."""
    text = _QUOTED.sub(" | ", " ".join(prompt.texts))
    instructions = [word.lower() for word in _WORD.findall(text)]
    runs = {tuple(instructions[n : n + _ECHO_WORDS]) for n in range(len(instructions))}
    return any(
        tuple(words[n : n + _ECHO_WORDS]) in runs for n in range(len(words) - _ECHO_WORDS + 1)
    )
