"""Item summaries: summarize the title, text and image of each item (stage "summarize").

Paper, section "Multimodal Item Summarization": one prompt summarizes the text, and another one
describes the image. Both answers are limited to similar lengths, so that neither modality
dominates, and a fusion prompt combines them. An item with only one modality gets its summary from
that modality; the table records the missing one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

import polars as pl

from mllm_msr import tables
from mllm_msr.data.images import image_status
from mllm_msr.interfaces import Backend
from mllm_msr.prompts import templates
from mllm_msr.prompts.item_types import ItemType, find_item_type
from mllm_msr.summarization.output_checks import CheckedCompletion, generate_checked
from mllm_msr.types import Item, Prompt

logger = logging.getLogger(__name__)

Modality = Literal["text", "image"]
Progress = Callable[[int], None]

# First parts of flags, in the order of the flags of an item.
_FLAG_ORDER: Final = ("text", "image", "fusion", "nothing")


def summarize(
    items: tables.Frame,
    backend: Backend,
    *,
    item_type: str | ItemType = "item",
    modalities: Sequence[Modality] = ("text", "image"),
    text_words: int = 40,
    image_words: int = 40,
    words: int = 60,
    max_text_tokens: int | None = 1024,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """Summarize every item.

    Args:
        items: `tables.ITEMS`, with image paths that can be opened.
        backend: Backend that answers the prompts. It must support images if "image" is among the
            modalities.
        item_type: Word for an item in prompts, see `item_types.find_item_type`.
        modalities: Modalities to read.
        text_words: Maximum length of the text summary in words.
        image_words: Maximum length of the image description in words; close to `text_words`, so
            that both modalities have the same weight.
        words: Maximum length of the combined summary in words.
        max_text_tokens: Maximum number of text tokens in a prompt; text and title of an item are
            cut at a word to meet it. None cuts them only at the limits of the templates and the
            model.
        progress: Called with the number of prompts finished since the last call.

    Returns:
        `tables.SUMMARIES`, one row per item, in the order of `items`. If a prompt fails, the row
        has a flag and a fallback: the title or text for the text summary, no image description,
        and both of them joined for the combined summary.
    """
    frame = tables.as_frame(items, name="items")
    drafts = [_Draft.make(row, modalities) for row in frame.iter_rows(named=True)]
    parts: list[tuple[_Draft, Modality]] = [
        (draft, "text") for draft in drafts if draft.has_text and "text" in modalities
    ]
    parts += [(draft, "image") for draft in drafts if draft.image_status == "ok"]
    max_words = {"text": text_words, "image": image_words}
    prompts = (
        _render_part(draft.item, modality, item_type, max_words[modality], max_text_tokens)
        for draft, modality in parts
    )
    language = find_item_type(item_type).language
    for index, checked in _generate(backend, prompts, language, progress):
        draft, modality = parts[index]
        draft.set_part(modality, checked, max_words[modality])
    both = [draft for draft in drafts if draft.text_summary and draft.image_summary]
    fusions = (_render_fusion(draft, item_type, words, max_text_tokens) for draft in both)
    for index, checked in _generate(backend, fusions, language, progress):
        both[index].summary = both[index].take(checked, "fusion", words)
    rows = [draft.finish(item_type) for draft in drafts]
    return pl.DataFrame(rows, schema=dict(tables.SUMMARIES))


def n_prompts(items: pl.DataFrame, modalities: Sequence[Modality] = ("text", "image")) -> int:
    """Return the maximum number of prompts of `summarize`, without retries."""
    n_text = items.height if "text" in modalities else 0
    n_image = items["image"].count() if "image" in modalities else 0
    return n_text + n_image + min(n_text, n_image)


@dataclass(slots=True)
class _Draft:
    """The unfinished summary of one item; its fields are those of `tables.SUMMARIES`."""

    item: Item
    image_status: str
    text_summary: str | None = None
    image_summary: str | None = None
    summary: str = ""
    flags: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, row: dict[str, Any], modalities: Sequence[Modality]) -> Self:
        """Create the draft for a row of `tables.ITEMS` and check its images."""
        item = Item.from_row(row)
        if "image" not in modalities:
            return cls(item, "unused")
        found = [image_status(path) for path in item.images or (None,)]
        problems = [one for one in found if one.status != "ok"]
        good = [path for path, one in zip(item.images, found, strict=False) if one.status == "ok"]
        for one in problems:
            if good or one.status == "unreadable":
                logger.warning(
                    "summarizing item %s without %s: %s",
                    item.item_id,
                    "one of its images" if good else "its image",
                    one.reason,
                )
        status = "ok" if good else problems[0].status
        flags = ["image_incomplete"] if good and problems else []
        return cls(item.with_images(good), status, flags=flags)

    @property
    def has_text(self) -> bool:
        """Return whether the item has a title or text."""
        return bool(templates.clean(self.item.title) or templates.clean(self.item.text))

    @property
    def summaries(self) -> dict[str, object]:
        """Return the summaries of both modalities as variables of the fusion prompt."""
        return {"text_summary": self.text_summary, "image_summary": self.image_summary}

    def take(self, checked: CheckedCompletion, step: str, max_words: int) -> str:
        """Return the text of an answer, empty if it failed, and add the flags of the step."""
        completion = checked.completion
        text, cut = templates.limit_words(completion.text, max_words)
        flags = [f"{step}_{flag}" for flag in checked.flags]
        if completion.error is not None or not text:
            self.flags += [f"{step}_failed", *flags]
            return ""
        if cut or completion.trimmed or completion.finish_reason == "length":
            flags.append(f"{step}_cut")
        self.flags += flags
        return text

    def set_part(self, modality: Modality, checked: CheckedCompletion, max_words: int) -> None:
        """Set the summary of one modality; fall back to the title or text of the item."""
        text = self.take(checked, modality, max_words)
        if modality == "text" and any(map(templates.is_cut, (self.item.title, self.item.text))):
            self.flags.append("text_cut")
        if not text:
            logger.warning(
                "no %s summary of item %s: %s",
                modality,
                self.item.item_id,
                checked.completion.error or "empty answer",
            )
        if modality == "image":
            self.image_summary = text or None
            return
        fallback = templates.clean(self.item.title or self.item.text)
        self.text_summary = text or templates.limit_words(fallback, max_words)[0]

    def finish(self, item_type: str | ItemType) -> dict[str, str | None]:
        """Return the row, with a fallback if there is no combined summary."""
        if not self.summary:
            parts = [part for part in (self.text_summary, self.image_summary) if part]
            self.summary = " ".join(parts)
            if not parts:
                self.flags.append("nothing_to_read")
                word = find_item_type(item_type).singular
                self.summary = f"A {word} about which nothing is known."
        return {
            "item_id": self.item.item_id,
            "text_summary": self.text_summary,
            "image_summary": self.image_summary,
            "summary": self.summary,
            "image_status": self.image_status,
            # Sorted, since answers arrive in any order.
            "flags": ",".join(
                sorted(
                    dict.fromkeys(self.flags),
                    key=lambda flag: _FLAG_ORDER.index(flag.partition("_")[0]),
                )
            ),
        }


def _render_fusion(
    draft: _Draft, item_type: str | ItemType, words: int, max_text_tokens: int | None
) -> Prompt:
    """Render the prompt for the combined summary of an item."""
    return templates.render(
        "fusion",
        draft.summaries | {"words": words},
        item_type=item_type,
        trimmable=("text_summary", "image_summary"),
        max_new_tokens=words * templates.TOKENS_PER_WORD,
        max_text_tokens=max_text_tokens,
    )


def _render_part(
    item: Item,
    modality: Modality,
    item_type: str | ItemType,
    max_words: int,
    max_text_tokens: int | None,
) -> Prompt:
    """Render the prompt for the summary of one modality of an item."""
    max_new_tokens = max_words * templates.TOKENS_PER_WORD
    if modality == "image":
        return templates.render(
            "image_description",
            {"words": max_words},
            item_type=item_type,
            images=item.images,
            max_new_tokens=max_new_tokens,
        )
    return templates.render(
        "text_summary",
        {"title": item.title, "text": item.text, "words": max_words},
        item_type=item_type,
        trimmable=("text", "title"),
        max_new_tokens=max_new_tokens,
        max_text_tokens=max_text_tokens,
    )


def _generate(
    backend: Backend, prompts: Iterable[Prompt], language: str, progress: Progress | None
) -> Iterator[tuple[int, CheckedCompletion]]:
    for index, checked in generate_checked(backend, prompts, language=language):
        yield index, checked
        if progress is not None:
            progress(1)
