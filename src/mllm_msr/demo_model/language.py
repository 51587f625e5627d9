"""Texts of the synthetic world: titles, summaries and preferences in a small vocabulary.

Titles and texts are inputs. Summaries and preferences are the sentences that the demo model
learns to write for the prompts in `prompts/templates/`. Each slot value is one word and occurs once
in a sentence. These strings are training data: changing one requires new weights.
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
from mllm_msr.prompts.item_types import find_item_type

# One value per slot, None for an unknown slot.
PartialValues = tuple[str | None, ...]

# No title starts with the name: after a space, the name has the same tokens as in the sentences.
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
    """Return the title of an item: its text slots and its name, in one of several wordings."""
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
    """Return the longer text of an item: empty for half of the items, else a sentence."""
    rng = np.random.default_rng([item.seed, 13])
    if rng.random() < 0.5:
        return ""
    frame = _TEXTS[rng.integers(len(_TEXTS))]
    other = make_name(rng, reserved=is_reserved(item.name))
    return frame.format(other=other, number=int(rng.integers(2, 40)))


def with_article(phrase: str) -> str:
    """Prepend "a" or "an" to a phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def text_summary(values: PartialValues, name: str, *, item_type: str) -> str:
    """Return the summary of a title, as in "A calm video about cooking called Velora."."""
    return f"{_capitalize(with_article(_text_phrase(values, item_type)))} called {name}."


def image_description(values: PartialValues) -> str:
    """Return the description of a cover, such as "A cup in rose colours on a plain background."."""
    return f"{_capitalize(_image_phrase(values))}."


def fusion(values: PartialValues, name: str, *, item_type: str) -> str:
    """Return one sentence that combines the summary and the description of an item."""
    summary = text_summary(values, name, item_type=item_type)
    return f"{summary[:-1]}, showing {_image_phrase(values)}."


def preference(values: PartialValues, *, item_type: str) -> str:
    """Return the sentence for a preference, without the slots that are None."""
    plural = find_item_type(item_type).plural
    sentence = f"The user appears to have a preference for {_text_phrase(values, plural)}"
    if any(values[i] is not None for i in IMAGE_SLOTS):
        sentence += f" that show {_image_phrase(values)}"
    return f"{sentence}."


def quote_title(words: Sequence[str], *, item_type: str) -> str:
    """Return the summary of an arbitrary title: the slot values in it, and its first words."""
    found = {word.lower() for word in words}
    values = tuple(
        next((value for value in slot.values if i in TEXT_SLOTS and value in found), None)
        for i, slot in enumerate(SLOTS)
    )
    return text_summary(values, " ".join(words[:8]), item_type=item_type)


def _capitalize(sentence: str) -> str:
    """Convert the first letter to upper case (`str.capitalize` also lowers the others)."""
    return sentence[0].upper() + sentence[1:]


def _text_phrase(values: PartialValues, item_word: str) -> str:
    """Return a phrase such as "calm video about cooking"."""
    # Each value follows a fixed word, never another value. Induction heads, which copy the token
    # that followed an earlier occurrence of the current one, can then find each item's value.
    genre, mood = (values[i] for i in TEXT_SLOTS)
    phrase = f"{mood} {item_word}" if mood else item_word
    return f"{phrase} about {genre}" if genre else phrase


def _image_phrase(values: PartialValues) -> str:
    """Return a phrase such as "a lantern in amber colours on a striped background"."""
    shown, palette, pattern = (values[i] for i in IMAGE_SLOTS)
    phrase = with_article(shown) if shown else "something"
    if palette:
        phrase += f" in {palette} colours"
    if pattern:
        phrase += f" on a {pattern} background"
    return phrase
