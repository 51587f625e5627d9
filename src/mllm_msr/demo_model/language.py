"""The small English of generated worlds: titles, summaries, preferences and questions.

Titles are input; the sentences are what the packaged model learns to write for the prompts in
`templates/`. Every slot's value is one word, said once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from mllm_msr.demo_model.world import (
    IMAGE_SLOTS,
    SLOTS,
    TEXT_SLOTS,
    WorldItem,
    is_reserved,
    make_name,
)
from mllm_msr.prompts.templates import find_item_type

# One value per slot; None where a slot is unknown.
PartialValues = tuple[str | None, ...]

# A name never opens a title: behind a space it has the same pieces as in every sentence below.
_TITLES: Final = (
    "Meet {name}: {mood} {genre}", "{Mood} {genre} with {name}",
    "The {mood} side of {genre}: {name}",
    "The {mood} {genre} diary of {name}", "{Genre} with {name}, {mood} as ever",
    "A {mood} hour of {genre}: {name}", "{Mood}! See {name} on {genre}",
    "{Genre} | {name} | {mood}",
    "{Genre} the {mood} way, with {name}", "Part {number}: {name} and {mood} {genre}",
    "At {name}: {mood} {genre}", "{Mood} {genre} by {name}", "With {name}, {genre} made {mood}",
    "{number} {mood} ideas for {genre} from {name}", "How {name} turns {genre} {mood}",
)  # fmt: skip
_TEXTS: Final = (
    "Recorded in {other}.", "Made by {other}, part {number}.", "From the makers of {other}.",
    "With {other} and friends, new every week.", "Number {number} of the {other} series.",
)  # fmt: skip
NUMBERS: Final = ("zero", "one", "two", "three", "four", "five")


def title(item: WorldItem) -> str:
    """An item's title: its text slots and its name in one of many wordings."""
    rng = np.random.default_rng([item.seed, 11])
    genre, mood = (item.values[i] for i in TEXT_SLOTS)
    frame = _TITLES[rng.integers(len(_TITLES))]
    return frame.format(
        name=item.name,
        genre=genre,
        Genre=genre.capitalize(),
        mood=mood,
        Mood=mood.capitalize(),
        number=int(rng.integers(2, 40)),
    )


def text(item: WorldItem) -> str:
    """An item's longer text: empty for every other item, else a sentence about its origin."""
    rng = np.random.default_rng([item.seed, 13])
    if rng.random() < 0.5:
        return ""
    frame = _TEXTS[rng.integers(len(_TEXTS))]
    other = make_name(rng, reserved=is_reserved(item.name))
    return frame.format(other=other, number=int(rng.integers(2, 40)))


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def text_summary(values: PartialValues, name: str, *, item_type: str) -> str:
    """What a title says: "A calm video about cooking called Velora."."""
    return f"{_capitalised(with_article(_kind(values, item_type)))} called {name}."


def image_description(values: PartialValues) -> str:
    """What a cover shows: "A lantern in amber colours on a striped background."."""
    return f"{_capitalised(_look(values))}."


def fusion(values: PartialValues, name: str, *, item_type: str) -> str:
    """Both in one sentence."""
    summary = text_summary(values, name, item_type=item_type)
    return f"{summary[:-1]}, showing {_look(values)}."


def preference(values: PartialValues, *, item_type: str) -> str:
    """A preference; slots that are None are left out."""
    item_types = find_item_type(item_type).plural
    sentence = f"The user appears to have a preference for {_kind(values, item_types)}"
    if any(values[i] is not None for i in IMAGE_SLOTS):
        sentence += f" that show {_look(values)}"
    return f"{sentence}."


def called(words: Sequence[str], *, item_type: str) -> str:
    """Summary of any other title: the properties that it names, and its own first words."""
    found = {word.lower() for word in words}
    values = tuple(
        next((value for value in slot.values if i in TEXT_SLOTS and value in found), None)
        for i, slot in enumerate(SLOTS)
    )
    return text_summary(values, " ".join(words[:8]), item_type=item_type)


def _capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _kind(values: PartialValues, item_type: str) -> str:
    # Each value stands behind words that are always the same, never behind another value: heads
    # that look for what stood behind the present word then find every item's value at once.
    genre, mood = (values[i] for i in TEXT_SLOTS)
    kind = f"{mood} {item_type}" if mood else item_type
    return f"{kind} about {genre}" if genre else kind


def _look(values: PartialValues) -> str:
    shown, palette, pattern = (values[i] for i in IMAGE_SLOTS)
    look = with_article(shown) if shown else "something"
    if palette:
        look += f" in {palette} colours"
    if pattern:
        look += f" on a {pattern} background"
    return look
