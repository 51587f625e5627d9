"""Training questions about items, images, lists and pairs, with their answers.

Functions return a flat list: question, answer, question, answer, ... All answers are facts about
the shown items ("is there a lantern?", "do both share at least three of these?"). No question is
about a user's next choice.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from mllm_msr.demo_model.language import NUMBERS, PartialValues
from mllm_msr.demo_model.world import IMAGE_SLOTS, SLOTS, TEXT_SLOTS, Values, is_reserved, make_name

_OPEN: Final = (
    "Which genre is it?", "Which mood does it have?", "Which object is shown?",
    "Which colours does it have?", "Which background does it have?",
)  # fmt: skip
_CLOSED: Final = (
    "Is it about {}?", "Is it {}?", "Is there a {} in the picture?", "Are the colours {}?",
    "Is the background {}?",
)  # fmt: skip
_NAMED: Final = ("Is {} named in it?", "Does it name {}?")
_LETTERS: Final = (
    "a", "e", "i", "o", "u", "th", "st", "ing", "er", "an", "on", "ch", "x", "q", "w", "y", "gh",
    "ma", "lo", "re", "ti", "ne", "ck", "ss", "ou", "ee", "br", "zh", "k", "p", "d", "v",
)  # fmt: skip
_SAME: Final = (
    "Do both have the same genre?", "Do both have the same mood?", "Do both show the same object?",
    "Do both have the same colours?", "Do both have the same background?",
)  # fmt: skip


@functools.cache
def plain_words() -> tuple[str, ...]:
    """Return the English words of `words.txt`, none of which is a slot value."""
    path = Path(__file__).with_name("words.txt")
    return tuple(path.read_text(encoding="utf-8").split())


def random_words(rng: np.random.Generator, n: int) -> list[str]:
    """Draw plain English words; capitalize each one at random."""
    vocabulary = plain_words()
    words = [vocabulary[i] for i in rng.integers(len(vocabulary), size=n)]
    return [word.capitalize() if rng.random() < 0.5 else word for word in words]


def odd_word(rng: np.random.Generator, *, reserved: bool) -> str:
    """Draw an irregular word as in real titles: a sign, a number, or random letters.

    Args:
        rng: Random generator.
        reserved: Whether words made of letters are reserved for demo and measurement worlds (see
            `world.make_name`).
    """
    draw = rng.random()
    if draw < 0.2:
        return str(rng.choice(list("#|-&+*")))
    if draw < 0.4:
        number = str(int(rng.integers(1, 2100)))
        return f"({number})" if rng.random() < 0.5 else number
    while True:
        letters = [_LETTERS[i] for i in rng.integers(len(_LETTERS), size=rng.integers(1, 5))]
        word = "".join(letters)
        if is_reserved(word) == reserved:
            return word.capitalize() if rng.random() < 0.4 else word


def random_title(rng: np.random.Generator, *, reserved: bool, realistic: bool = True) -> list[str]:
    """Draw the words of a title that is not from the synthetic world.

    Some titles contain values of text slots.

    Args:
        rng: Random generator.
        reserved: As for `odd_word`.
        realistic: Whether the title imitates real catalogs: it may be long, and words may be
            capitalized, hyphenated or tagged.
    """
    words: list[str] = []
    for _ in range(int(rng.integers(1, 31 if realistic and rng.random() < 0.3 else 13))):
        draw = rng.random()
        if draw < 0.25:
            word = make_name(rng, reserved=reserved)
        elif draw < 0.5:
            word = odd_word(rng, reserved=reserved)
        else:
            word = random_words(rng, 1)[0]
        words.append(f"{word}{',:!?'[rng.integers(4)]}" if rng.random() < 0.12 else word)
    if realistic:
        words = _decorate(rng, words)
    for slot in TEXT_SLOTS:
        if rng.random() < 0.2:
            value = str(rng.choice(SLOTS[slot].values))
            value = value.capitalize() if rng.random() < 0.4 else value
            words.insert(int(rng.integers(len(words) + 1)), value)
    return words


def _decorate(rng: np.random.Generator, words: Sequence[str]) -> list[str]:
    """Change words to resemble real titles: capitalize, tag, join or inflect some of them."""
    title_case = rng.random() < 0.5
    decorated: list[str] = []
    for word in words:
        draw = rng.random()
        new = word[:1].upper() + word[1:] if title_case and draw < 0.8 else word
        if draw < 0.06:
            new = f"#{new}"
        elif draw < 0.1 and decorated:
            new = f"{decorated.pop()}{'-/.'[rng.integers(3)]}{new}"
        elif draw < 0.13:
            new = f"{new}'s"
        decorated.append(new)
    return decorated


def about_words(
    rng: np.random.Generator, present: Sequence[str], absent: Sequence[str], *, n: int
) -> list[str]:
    """Ask whether a text contains a word; half of the answers are yes."""
    asked: list[str] = []
    for _ in range(n):
        named = rng.random() < 0.5
        word = str(rng.choice(present if named else absent))
        asked += [_NAMED[rng.integers(len(_NAMED))].format(word), _yes_no(named)]
    return asked


def about_text(rng: np.random.Generator, values: Values, *, n: int) -> list[str]:
    """Ask about the slots in a title."""
    return _slot_questions(rng, values, TEXT_SLOTS, n)


def about_image(rng: np.random.Generator, values: Values, *, n: int) -> list[str]:
    """Ask about the slots on a cover."""
    return _slot_questions(rng, values, IMAGE_SLOTS, n)


def _slot_questions(
    rng: np.random.Generator, values: Values, slots: Sequence[int], n: int
) -> list[str]:
    """Ask open and closed questions about some slots of an item."""
    asked: list[str] = []
    for _ in range(n):
        slot = int(rng.choice(slots))
        if rng.random() < 0.2:
            asked += [_OPEN[slot], values[slot]]
            continue
        value = values[slot]
        if rng.random() >= 0.5:
            value = str(rng.choice([other for other in SLOTS[slot].values if other != value]))
        asked += [_CLOSED[slot].format(value), _yes_no(value == values[slot])]
    return asked


def about_list(rng: np.random.Generator, block: Sequence[PartialValues]) -> list[str]:
    """Ask one question about a list of summaries: how often a value occurs in it."""
    slots = [i for i, value in enumerate(block[0]) if value is not None]
    slot = int(rng.choice(slots))
    present = [row[slot] for row in block]
    word = str(rng.choice([value for value in present if value is not None]))
    count = present.count(word)
    if rng.random() < 0.3 or count >= len(NUMBERS):
        return [f"Is {word} named more than once?", _yes_no(count > 1)]
    return [f"How many of them name {word}?", NUMBERS[count]]


def about_both(rng: np.random.Generator, first: Values, second: Values, *, n: int) -> list[str]:
    """Ask which slot values two items share."""
    shared = [a for a, b in zip(first, second, strict=True) if a == b]
    asked: list[str] = []
    for _ in range(n):
        draw = rng.random()
        if draw < 0.35:
            bound = int(rng.integers(1, len(SLOTS)))
            asked += [
                f"Do both share at least {NUMBERS[bound]} properties?",
                _yes_no(len(shared) >= bound),
            ]
        elif draw < 0.75:
            slot = int(rng.integers(len(SLOTS)))
            asked += [_SAME[slot], _yes_no(first[slot] == second[slot])]
        elif draw < 0.88:
            asked += ["What do both share?", ", ".join(shared) or "nothing"]
        else:
            asked += ["How many properties do both share?", NUMBERS[len(shared)]]
    return asked


def comparison_opening(rng: np.random.Generator, sentence: str, title: str) -> str:
    """Return a text and a title to compare, in one of several layouts."""
    frames = (
        'Text: "{0}"\nTitle of the picture: "{1}"',
        'The picture is called "{1}". The text says "{0}"',
        'Title: "{1}"\nDescription: "{0}"',
        'A description: "{0}"\nThe title: "{1}"',
    )
    return frames[rng.integers(len(frames))].format(sentence, title)


def text_opening(rng: np.random.Generator, first: str, second: str) -> str:
    """Return two texts to compare, in one of several layouts."""
    frames = ('First: "{}"\nSecond: "{}"', 'One text: "{}"\nAnother text: "{}"')
    return frames[rng.integers(len(frames))].format(first, second)


def choice_question(sentences: Sequence[str]) -> str:
    """Ask which of two texts fits the image better."""
    first, second = sentences
    return f'First: "{first}"\nSecond: "{second}"\nWhich text fits the picture better?'


def _yes_no(fact: bool) -> str:
    return "yes" if fact else "no"
