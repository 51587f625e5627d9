"""Examples of the alignment: an image, and a text that the model learns to answer.

The prompts are the ones that later stages ask: the description of the image is answered with the
item's text. If an item has a text and a title, a second prompt asks for the title, so that
descriptions do not invent titles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mllm_msr.data.images import image_status
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.prompts import templates
from mllm_msr.prompts.item_types import ItemType, find_item_type
from mllm_msr.ranker.training.fingerprint import prompt_content, records_digest
from mllm_msr.types import ImagePart, Item, Message, Prompt, TextPart


@dataclass(frozen=True, slots=True)
class AlignmentExample:
    """A prompt with one image, and its answer.

    Attributes:
        prompt: The prompt.
        answer: What the model learns to answer, not empty.
    """

    prompt: Prompt
    answer: str


def alignment_examples(
    items: Iterable[Item], *, item_type: str | ItemType, words: int
) -> list[AlignmentExample]:
    """Return the examples of a catalog; items without a readable image or any text have none.

    Args:
        items: The items; of several images, the first one is used.
        item_type: Word for an item in the prompts.
        words: Length of the image description that the prompt asks for.
    """
    examples: list[AlignmentExample] = []
    for item in items:
        if item.image is None or image_status(item.image).status != "ok":
            continue
        title, text = item.title.strip(), item.text.strip()
        if text or title:
            prompt = templates.render(
                "image_description", {"words": words}, item_type=item_type, images=[item.image]
            )
            examples.append(AlignmentExample(prompt, text or title))
        if text and title:
            question = f"What is the title of this {find_item_type(item_type).singular}?"
            parts = (ImagePart(item.image), TextPart(question))
            examples.append(AlignmentExample(Prompt((Message("user", parts),)), title))
    return examples


def render_examples(
    examples: Sequence[AlignmentExample], renderer: Renderer, *, end_id: int, max_tokens: int
) -> list[Rendered]:
    """Return the examples as token ids.

    Args:
        examples: The examples.
        renderer: Renderer of the model.
        end_id: Token that ends an answer, so that the model learns to stop.
        max_tokens: Length at which answers are cut; such answers do not end.

    Raises:
        ImageError: An image cannot be opened.
        AnswerTokenError: An answer merges with the end of the prompt.
    """
    rows = []
    for example in examples:
        row = renderer.render(example.prompt, example.answer)
        ids = (*row.answer_ids, end_id)[:max_tokens]
        rows.append(dataclasses.replace(row, answer_ids=ids))
    return rows


def examples_digest(examples: Iterable[AlignmentExample]) -> str:
    """Return the SHA-256 of prompts and answers in hexadecimal; images enter by file name."""
    return records_digest([prompt_content(example.prompt), example.answer] for example in examples)
