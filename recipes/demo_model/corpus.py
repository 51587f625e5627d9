"""Pre-training corpus: dialogues with known answers that train generic skills on random items.

An example has a first prompt, its answer, and often further short questions about the same items.
Prompts of the pipeline are rendered from the pipeline's own templates. The recommendation prompt,
the users of synthetic worlds and their next items never occur: pre-training teaches to compare a
text with an image, and fine-tuning teaches to choose the next item.

A family is a function from a `Source` of random items to an `Example`. `FAMILIES` lists them all;
`batches.CURRICULUM` determines how often each one is trained.
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
from mllm_msr.prompts.templates import render
from mllm_msr.types import ImagePart, Message, Prompt, TextPart
from recipes.demo_model import questions
from recipes.demo_model.teacher import mask_slots, update_preference

# Placeholder for the path of an image in a prompt. The image itself comes from the cover pool.
COVER: Final = Path("cover")


@dataclass(frozen=True, slots=True)
class Example:
    """One training dialogue.

    Attributes:
        prompt: First prompt.
        turns: Its answer, then question, answer, question, answer, ...
        cover: Index in the pool of the cover that the prompt shows, `None` if it shows none.
    """

    prompt: Prompt
    turns: tuple[str, ...]
    cover: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Source of random items and texts for examples.

    Attributes:
        rng: Random generator.
        covers: Slot values of each cover in the pool; not empty for families with images.
        reserved: Whether names are reserved for demo and measurement worlds.
        realistic: Whether titles imitate real catalogs (long, any form) and are formatted by the
            pipeline's template. Otherwise titles are short and quoted, which helps the other
            skills but makes it hard to learn to repeat the first words of a title.
    """

    rng: np.random.Generator
    covers: Sequence[Values]
    reserved: bool = False
    realistic: bool = True

    def item(self) -> WorldItem:
        """Draw an item without a cover."""
        return random_item(self.rng, reserved=self.reserved)

    def item_with_cover(self) -> tuple[WorldItem, int]:
        """Draw an item with a random cover of the pool, and the cover's index."""
        cover = int(self.rng.integers(len(self.covers)))
        item = self.item()
        values = tuple(
            (self.covers[cover] if i in IMAGE_SLOTS else item.values)[i] for i in range(len(SLOTS))
        )
        return WorldItem(values, item.name, item.seed), cover

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return bool(self.rng.random() < probability)

    def item_type(self) -> str:
        """Draw an item type, "video" in most cases."""
        return str(
            self.rng.choice(["video", "film", "product", "item"], p=[0.55, 0.15, 0.15, 0.15])
        )

    def random_title(self) -> list[str]:
        """Draw the words of a title that is not from the synthetic world."""
        return questions.random_title(self.rng, reserved=self.reserved, realistic=self.realistic)

    def words(self, usual: int) -> int:
        """Draw a length limit in words, the usual one in most cases."""
        return usual if self.chance(0.7) else int(self.rng.integers(30, 100))


def text_summary(source: Source) -> Example:
    """Summarize a title (and text); some titles are not from the synthetic world."""
    item, item_type = source.item(), source.item_type()
    if source.chance(0.6 if source.realistic else 0.4):
        words = source.random_title()
        text = language.text(source.item()) if source.chance(0.3) else ""
        data = {"title": " ".join(words), "text": text, "words": source.words(40)}
        answer = language.quote_title(words, item_type=item_type)
        return Example(_summary_prompt(source, data, item_type=item_type), (answer,))
    data = {
        "title": language.title(item),
        "text": language.text(item),
        "words": source.words(40),
    }
    answer = language.text_summary(item.values, item.name, item_type=item_type)
    asked = questions.about_text(source.rng, item.values, n=int(source.rng.integers(0, 3)))
    return Example(_summary_prompt(source, data, item_type=item_type), (answer, *asked))


def _summary_prompt(source: Source, data: Mapping[str, object], *, item_type: str) -> Prompt:
    """Render the prompt of a text summary, or its short form for titles that are not realistic."""
    if source.realistic:
        return render("text_summary", data, item_type=item_type)
    text = (
        f"Summarise this {item_type} from its title and text in at most {data['words']} words."
        f' Keep names as they are written.\nTitle: "{data["title"]}"'
    )
    if data["text"]:
        text += f'\nText: "{data["text"]}"'
    return Prompt((Message("user", (TextPart(text),)),))


def image_description(source: Source) -> Example:
    """Describe a cover, then answer questions about it."""
    item, cover = source.item_with_cover()
    data = {"words": source.words(40)}
    prompt = render("image_description", data, item_type=source.item_type(), images=[COVER])
    asked = questions.about_image(source.rng, item.values, n=int(source.rng.integers(1, 4)))
    return Example(prompt, (language.image_description(item.values), *asked), cover)


def image_questions(source: Source) -> Example:
    """Answer questions about a cover; the first one comes with the image."""
    item, cover = source.item_with_cover()
    question, *turns = questions.about_image(source.rng, item.values, n=8)
    parts = (ImagePart(COVER), TextPart(question))
    return Example(Prompt((Message("user", parts),)), tuple(turns), cover)


def fusion(source: Source) -> Example:
    """Combine a text summary and an image description into one summary."""
    item, item_type = source.item(), source.item_type()
    if source.chance(0.25):
        words = source.random_title()
        summary = language.quote_title(words, item_type=item_type)
        description = language.image_description(item.values)
        answer = f"{summary[:-1]}, showing {description[0].lower()}{description[1:]}"
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
    """Infer the preference from the summaries of a first block or a short history."""
    n_items = int(source.rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.15, 0.55, 0.1, 0.1]))
    return _preference(source, n_items, None)


def preference_update(source: Source) -> Example:
    """Update the previous preference with the summaries of a block."""
    n_items = int(source.rng.choice([1, 2, 3, 4, 5], p=[0.17, 0.17, 0.5, 0.08, 0.08]))
    taste = source.item().values
    # In half of the examples, the previous preference is close to the taste behind the block.
    previous = _near(source, taste, 0.8) if source.chance(0.5) else source.item().values
    return _preference(source, n_items, previous, taste=taste)


def preference_direct(source: Source) -> Example:
    """Infer the preference from a long history in one step."""
    return _preference(source, int(source.rng.integers(6, 16)), None)


def _preference(
    source: Source, n_items: int, previous: Values | None, *, taste: Values | None = None
) -> Example:
    """Make an example of preference inference.

    Args:
        source: Source of random items.
        n_items: Number of items in the block.
        previous: Previous preference, `None` for a first block.
        taste: Values that the items of the block resemble, random by default.
    """
    item_type = source.item_type()
    taste = taste or source.item().values
    later = source.item().values if source.chance(0.3) else taste
    change = int(source.rng.integers(n_items + 1))
    # Half of the blocks end with an item that contradicts the others. Otherwise the value of the
    # last item is nearly always correct, and the model never learns to count.
    outlier = source.item().values
    ends_with_outlier = source.chance(0.5)
    items: list[WorldItem] = []
    for number in range(n_items):
        drawn = source.item()
        center = taste if number < change else later
        if ends_with_outlier and number == n_items - 1:
            center = outlier
        values = _near(source, center, 0.75, other=outlier if source.chance(0.5) else None)
        items.append(WorldItem(values, drawn.name, drawn.seed))
    draw = source.rng.random()
    if draw < 0.12:
        shown = TEXT_SLOTS
    else:
        shown = IMAGE_SLOTS if draw < 0.17 else (*TEXT_SLOTS, *IMAGE_SLOTS)
    block = [mask_slots(item.values, shown) for item in items]
    before = mask_slots(previous, shown) if previous else None
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


def _summary(item: WorldItem, values: PartialValues, item_type: str) -> str:
    """Return the summary of an item of which only some values are known."""
    if all(values[i] is None for i in IMAGE_SLOTS):
        return language.text_summary(values, item.name, item_type=item_type)
    if all(values[i] is None for i in TEXT_SLOTS):
        return language.image_description(values)
    return language.fusion(values, item.name, item_type=item_type)


def presence(source: Source) -> Example:
    """Answer whether words occur in a text."""
    draw = source.rng.random()
    if draw < 0.5:
        words = questions.random_words(source.rng, int(source.rng.integers(2, 16)))
        present = [word.lower() for word in words]
        absent = [word for word in questions.plain_words() if word not in present]
        line = " ".join(words)
    else:
        item = source.item()
        slots = TEXT_SLOTS if draw < 0.65 else range(len(SLOTS))
        present = [item.values[i] for i in slots]
        absent = [value for i in slots for value in SLOTS[i].values if value not in present]
        line = language.title(item) if draw < 0.65 else _sentence(source, item.values)
    asked = questions.about_words(source.rng, present, absent, n=8)
    parts = (TextPart(f'Text: "{line}"\n{asked[0]}'),)
    return Example(Prompt((Message("user", parts),)), tuple(asked[1:]))


def comparison(source: Source) -> Example:
    """Compare a cover and its title with a text, and answer which values they share."""
    item, cover = source.item_with_cover()
    wanted = _near(source, item.values, float(source.rng.choice([0.1, 0.4, 0.7, 0.9])))
    asked = questions.about_both(source.rng, item.values, wanted, n=8)
    opening = questions.comparison_opening(
        source.rng, _sentence(source, wanted), language.title(item)
    )
    parts = (ImagePart(COVER), TextPart(f"{opening}\n{asked[0]}"))
    return Example(Prompt((Message("user", parts),)), tuple(asked[1:]), cover)


def text_comparison(source: Source) -> Example:
    """Compare two texts, and answer which values they share."""
    item = source.item()
    wanted = _near(source, item.values, float(source.rng.choice([0.1, 0.4, 0.7, 0.9])))
    asked = questions.about_both(source.rng, item.values, wanted, n=8)
    opening = questions.text_opening(
        source.rng, _sentence(source, wanted), _sentence(source, item.values)
    )
    parts = (TextPart(f"{opening}\n{asked[0]}"),)
    return Example(Prompt((Message("user", parts),)), tuple(asked[1:]))


def choice_of_two(source: Source) -> Example:
    """Choose the one of two texts that fits a cover better."""
    item, cover = source.item_with_cover()
    right = _near(source, item.values, 0.85)
    wrong = _near(source, item.values, 0.1)

    def n_shared(text: Values) -> int:
        return sum(item.values[i] == text[i] for i in IMAGE_SLOTS)

    if n_shared(right) <= n_shared(wrong):
        right = item.values
        wrong = _near(source, item.values, 0.0)
    first = source.chance(0.5)
    texts = (right, wrong) if first else (wrong, right)
    question = questions.choice_question(
        [_sentence(source, mask_slots(values, IMAGE_SLOTS)) for values in texts]
    )
    parts = (ImagePart(COVER), TextPart(question))
    return Example(Prompt((Message("user", parts),)), ("first" if first else "second",), cover)


def copying(source: Source) -> Example:
    """Repeat random words."""
    words = source.random_title()
    line = " ".join(words)
    parts = (TextPart(f'Repeat the words: "{line}"'),)
    return Example(Prompt((Message("user", parts),)), (line,))


def _sentence(source: Source, values: PartialValues) -> str:
    """Return a preference or a summary with the given values."""
    item_type = source.item_type()
    if source.chance(0.6) or any(value is None for value in values):
        return language.preference(values, item_type=item_type)
    return language.fusion(
        values, make_name(source.rng, reserved=source.reserved), item_type=item_type
    )


def _near(
    source: Source, values: Values, agreement: float, *, other: Values | None = None
) -> Values:
    """Return values that agree with the given ones with a probability per slot.

    Args:
        source: Source of random items.
        values: One value per slot.
        agreement: Probability that a slot keeps its value.
        other: Values of the other slots, random by default.
    """
    other = other or source.item().values
    return tuple(a if source.chance(agreement) else b for a, b in zip(values, other, strict=True))


FAMILIES: Final[Mapping[str, Callable[[Source], Example]]] = MappingProxyType(
    {
        "copying": copying,
        "text_summary": text_summary,
        "image_description": image_description,
        "image_questions": image_questions,
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
