"""Pre-training examples: generic skills on random items, as dialogues with known answers.

Every example comes from a seeded generator and holds a first prompt (rendered from the very
templates that the pipeline uses, where it is one of theirs), its answer, and often more short
questions about the same material. The recommendation prompt, users of generated worlds and
their next items never occur here: comparing a text with a picture is a skill, choosing the next
item is what fine-tuning teaches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from mllm_msr.demo_model import language
from mllm_msr.demo_model.language import PartialValues
from mllm_msr.demo_model.world import (
    IMAGE_SLOTS,
    SLOTS,
    TEXT_SLOTS,
    Values,
    WorldItem,
    make_name,
    random_item,
)
from mllm_msr.prompts.templates import ITEM_TYPES, render
from mllm_msr.types import ImagePart, Message, Prompt, TextPart
from recipes.demo_model import questions
from recipes.demo_model.teacher import update_preference

# Stands where a picture's path would; the picture itself comes from the pool of drawn covers.
PICTURE: Final = Path("cover")


@dataclass(frozen=True, slots=True)
class Example:
    """A dialogue to learn from.

    Attributes:
        prompt: First prompt.
        turns: Its answer, then question, answer, question, answer, ...
        cover: Number of the cover in the pool that the prompt shows, None where it shows none.
    """

    prompt: Prompt
    turns: tuple[str, ...]
    cover: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What examples are drawn from.

    Attributes:
        rng: Source of chance.
        covers: Slot values of each cover in the pool; never empty where pictures are asked for.
        reserved: Whether names come from those kept for shown and measured worlds.
        outside: Whether titles are like those of the world outside, long and of any form, and
            stand where the pipeline has them; else they are short and stand in quotes, from
            which other skills are learnt but first words are hard to repeat.
    """

    rng: np.random.Generator
    covers: Sequence[Values]
    reserved: bool = False
    outside: bool = True

    def item(self) -> WorldItem:
        """A random item without a cover."""
        return random_item(self.rng, reserved=self.reserved)

    def item_with_cover(self) -> tuple[WorldItem, int]:
        """An item that has a random cover of the pool and random text slots."""
        cover = int(self.rng.integers(len(self.covers)))
        item = self.item()
        values = tuple(
            (self.covers[cover] if i in IMAGE_SLOTS else item.values)[i] for i in range(len(SLOTS))
        )
        return WorldItem(values, item.name, item.seed), cover

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return bool(self.rng.random() < probability)

    def item_type(self) -> str:
        """A item_type, "video" more often than not."""
        return str(
            self.rng.choice(["video", "film", "product", "item"], p=[0.55, 0.15, 0.15, 0.15])
        )

    def external_title(self) -> list[str]:
        """Words of a title that follows no grammar of the world."""
        return questions.external_title(self.rng, reserved=self.reserved, outside=self.outside)

    def words(self, usual: int) -> int:
        """A length limit, mostly the usual one."""
        return usual if self.chance(0.7) else int(self.rng.integers(30, 100))


def text_summary(source: Source) -> Example:
    """Title (and text) to summary; some titles say nothing about a slot."""
    item, item_type = source.item(), source.item_type()
    if source.chance(0.6 if source.outside else 0.4):
        return _external_summary(source, item_type)
    data = {
        "title": language.title(item),
        "text": language.text(item),
        "words": source.words(40),
    }
    answer = language.text_summary(item.values, item.name, item_type=item_type)
    asked = questions.about_text(source.rng, item.values, n=int(source.rng.integers(0, 3)))
    return Example(_summary_prompt(source, data, item_type=item_type), (answer, *asked))


def _external_summary(source: Source, item_type: str) -> Example:
    words = source.external_title()
    text = language.text(source.item()) if source.chance(0.3) else ""
    data = {"title": " ".join(words), "text": text, "words": source.words(40)}
    answer = language.quote_title(words, item_type=item_type)
    return Example(_summary_prompt(source, data, item_type=item_type), (answer,))


def _summary_prompt(source: Source, data: Mapping[str, object], *, item_type: str) -> Prompt:
    if source.outside:
        return render("text_summary", data, item_type=item_type)
    text = (
        f"Summarise this {item_type} from its title and text in at most {data['words']} words."
        f' Keep names as they are written.\nTitle: "{data["title"]}"'
    )
    if data["text"]:
        text += f'\nText: "{data["text"]}"'
    return Prompt((Message("user", (TextPart(text),)),))


def image_description(source: Source) -> Example:
    """Cover to description, then questions about it."""
    item, cover = source.item_with_cover()
    data = {"words": source.words(40)}
    prompt = render("image_description", data, item_type=source.item_type(), image=PICTURE)
    asked = questions.about_picture(source.rng, item.values, n=int(source.rng.integers(1, 4)))
    return Example(prompt, (language.image_description(item.values), *asked), cover)


def picture_questions(source: Source) -> Example:
    """A cover and questions, the first of them with the picture."""
    item, cover = source.item_with_cover()
    question, *turns = questions.about_picture(source.rng, item.values, n=8)
    parts = (ImagePart(PICTURE), TextPart(question))
    return Example(Prompt((Message("user", parts),)), tuple(turns), cover)


def fusion(source: Source) -> Example:
    """Both descriptions to one summary."""
    item, item_type = source.item(), source.item_type()
    if source.chance(0.25):
        words = source.external_title()
        summary = language.quote_title(words, item_type=item_type)
        answer = f"{summary[:-1]}, showing {_lowered(language.image_description(item.values))}"
    else:
        summary = language.text_summary(item.values, item.name, item_type=item_type)
        answer = language.fusion(item.values, item.name, item_type=item_type)
    data = {
        "text_summary": summary,
        "image_summary": language.image_description(item.values),
        "words": source.words(60),
    }
    return Example(render("fusion", data, item_type=item_type), (answer,))


def preference_first(source: Source) -> Example:
    """The summaries of a first block, or a short history, to a preference."""
    n_items = int(source.rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.15, 0.55, 0.1, 0.1]))
    return _preference(source, n_items, None)


def preference_update(source: Source) -> Example:
    """A block's summaries and the previous preference to the updated one."""
    n_items = int(source.rng.choice([1, 2, 3, 4, 5], p=[0.17, 0.17, 0.5, 0.08, 0.08]))
    taste = source.item().values
    # Half of the time the previous preference is (mostly) the taste that the block follows.
    previous = _near(source, taste, 0.8) if source.chance(0.5) else source.item().values
    return _preference(source, n_items, previous, taste=taste)


def preference_direct(source: Source) -> Example:
    """A long history to a preference, in one step."""
    return _preference(source, int(source.rng.integers(6, 16)), None)


def _preference(
    source: Source, n_items: int, previous: Values | None, *, taste: Values | None = None
) -> Example:
    item_type = source.item_type()
    taste = taste or source.item().values
    later = source.item().values if source.chance(0.3) else taste
    change = int(source.rng.integers(n_items + 1))
    # Half of the blocks end with an item that goes against the rest: else "the newest" is nearly
    # always right, and counting is never learnt.
    baseline = source.item().values
    against = source.chance(0.5)
    items: list[WorldItem] = []
    for number in range(n_items):
        drawn = source.item()
        wanted = taste if number < change else later
        if against and number == n_items - 1:
            wanted = baseline
        values = _near(source, wanted, 0.75, other=baseline if source.chance(0.5) else None)
        items.append(WorldItem(values, drawn.name, drawn.seed))
    shown = _visible_slots(source)
    block = [_masked(item.values, shown) for item in items]
    before = _masked(previous, shown) if previous else None
    data: dict[str, object] = {
        "summaries": [_summary(i, v, item_type) for i, v in zip(items, block, strict=True)],
        "words": source.words(80),
    }
    if before:
        data["preference"] = language.preference(before, item_type=item_type)
    answer = update_preference(before, block)
    name = "preference_update" if before else "preference_first"
    turns = [language.preference(answer, item_type=item_type)]
    if source.chance(0.5):
        turns += questions.about_list(source.rng, block)
    return Example(render(name, data, item_type=item_type), tuple(turns))


def _visible_slots(source: Source) -> tuple[int, ...]:
    draw = source.rng.random()
    if draw < 0.12:
        return TEXT_SLOTS
    return IMAGE_SLOTS if draw < 0.17 else (*TEXT_SLOTS, *IMAGE_SLOTS)


def _summary(item: WorldItem, values: PartialValues, item_type: str) -> str:
    if all(values[i] is None for i in IMAGE_SLOTS):
        return language.text_summary(values, item.name, item_type=item_type)
    if all(values[i] is None for i in TEXT_SLOTS):
        return language.image_description(values)
    return language.fusion(values, item.name, item_type=item_type)


def presence(source: Source) -> Example:
    """A text, and whether words stand in it."""
    draw = source.rng.random()
    if draw < 0.5:
        words = questions.random_words(source.rng, int(source.rng.integers(2, 16)))
        known = [word.lower() for word in words]
        absent = [word for word in questions.plain_words() if word not in known]
        line = " ".join(words)
    else:
        item = source.item()
        slots = TEXT_SLOTS if draw < 0.65 else range(len(SLOTS))
        known = [item.values[i] for i in slots]
        absent = [value for i in slots for value in SLOTS[i].values if value not in known]
        line = language.title(item) if draw < 0.65 else _sentence(source, item.values)
    asked = questions.about_words(source.rng, known, absent, n=8)
    parts = (TextPart(f'Text: "{line}"\n{asked[0]}'),)
    return Example(Prompt((Message("user", parts),)), tuple(asked[1:]))


def comparison(source: Source) -> Example:
    """A cover and a title against a text: what they share, asked in several ways."""
    item, cover = source.item_with_cover()
    wanted = _near(source, item.values, float(source.rng.choice([0.1, 0.4, 0.7, 0.9])))
    asked = questions.about_both(source.rng, item.values, wanted, n=8)
    opening = questions.comparison_opening(
        source.rng, _sentence(source, wanted), language.title(item)
    )
    parts = (ImagePart(PICTURE), TextPart(f"{opening}\n{asked[0]}"))
    return Example(Prompt((Message("user", parts),)), tuple(asked[1:]), cover)


def text_comparison(source: Source) -> Example:
    """Two texts: what they share, asked in several ways."""
    item = source.item()
    wanted = _near(source, item.values, float(source.rng.choice([0.1, 0.4, 0.7, 0.9])))
    asked = questions.about_both(source.rng, item.values, wanted, n=8)
    opening = questions.text_opening(
        source.rng, _sentence(source, wanted), _sentence(source, item.values)
    )
    parts = (TextPart(f"{opening}\n{asked[0]}"),)
    return Example(Prompt((Message("user", parts),)), tuple(asked[1:]))


def choice_of_two(source: Source) -> Example:
    """A cover and two texts, one of which is nearer to it."""
    item, cover = source.item_with_cover()
    right = _near(source, item.values, 0.85)
    wrong = _near(source, item.values, 0.1)
    if not _shared(item.values, right) > _shared(item.values, wrong):
        right = item.values
        wrong = _near(source, item.values, 0.0)
    first = source.chance(0.5)
    texts = (right, wrong) if first else (wrong, right)
    question = questions.choice_question(
        [_sentence(source, _masked(values, IMAGE_SLOTS)) for values in texts]
    )
    parts = (ImagePart(PICTURE), TextPart(question))
    return Example(Prompt((Message("user", parts),)), ("first" if first else "second",), cover)


def copying(source: Source) -> Example:
    """Random words to be said again."""
    words = source.external_title()
    line = " ".join(words)
    parts = (TextPart(f'Repeat the words: "{line}"'),)
    return Example(Prompt((Message("user", parts),)), (line,))


def _sentence(source: Source, values: PartialValues) -> str:
    item_type = source.item_type()
    if source.chance(0.6) or any(value is None for value in values):
        return language.preference(values, item_type=item_type)
    return language.fusion(
        values, make_name(source.rng, reserved=source.reserved), item_type=item_type
    )


def _near(
    source: Source, values: Values, agreement: float, *, other: Values | None = None
) -> Values:
    other = other or source.item().values
    return tuple(a if source.chance(agreement) else b for a, b in zip(values, other, strict=True))


def _masked(values: Sequence[str | None], slots: Sequence[int]) -> PartialValues:
    return tuple(value if i in slots else None for i, value in enumerate(values))


def _shared(values: Values, wanted: Values) -> int:
    return sum(values[i] == wanted[i] for i in IMAGE_SLOTS)


def _lowered(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


FAMILIES: Final[Mapping[str, Callable[[Source], Example]]] = MappingProxyType(
    {
        "copying": copying,
        "text_summary": text_summary,
        "image_description": image_description,
        "picture_questions": picture_questions,
        "presence": presence,
        "fusion": fusion,
        "preference_first": preference_first,
        "preference_update": preference_update,
        "preference_direct": preference_direct,
        "comparison": comparison,
        "text_comparison": text_comparison,
        "choice_of_two": choice_of_two,
    }
)
NOUNS: Final = tuple(ITEM_TYPES)
