"""Stage "summarize": an item's title, text and image become one summary.

Paper, "Multimodal Item Summarization": a text-summary prompt and an image-description prompt read
the modalities apart, their answers are calibrated to similar lengths so that neither drowns the
other, and a fusion prompt joins both. An item without one of the two is summarised from what
there is, and the table says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from mllm_msr import tables
from mllm_msr.data.images import image_status
from mllm_msr.interfaces import Backend
from mllm_msr.prompts import templates
from mllm_msr.summarization import output_checks
from mllm_msr.summarization.output_checks import Answer
from mllm_msr.types import Item, Prompt

logger = logging.getLogger(__name__)

Modality = Literal["text", "image"]
Progress = Callable[[int], None]

# Answers are bounded in tokens by the model and in words here; words of names and of scripts that
# a tokenizer knows badly take several tokens each.
_TOKENS_PER_WORD = 3

# What a flag begins with, in the order of the flags of an item.
_STEPS = ("text", "image", "fusion", "nothing")


@dataclass(slots=True)
class _Draft:
    """One item's summary while it is being made."""

    item: Item
    image_status: str
    text_summary: str | None = None
    image_summary: str | None = None
    summary: str = ""
    flags: list[str] = field(default_factory=list)

    @property
    def has_text(self) -> bool:
        return bool(templates.clean(self.item.title) or templates.clean(self.item.text))


def summarize(
    items: pl.DataFrame,
    backend: Backend,
    *,
    item_type: str = "item",
    modalities: Sequence[Modality] = ("text", "image"),
    text_words: int = 40,
    image_words: int = 40,
    words: int = 60,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """Summarise every item.

    Args:
        items: `tables.ITEMS` with image paths that can be opened from here.
        backend: Answers the prompts; must read images if "image" is among the modalities.
        item_type: What an item is called in prompts (a key of `prompts.ITEM_TYPES`).
        modalities: Which of an item's sides are read.
        text_words: Length limit of the text summary, in words.
        image_words: Length limit of the image description, in words; keep it near `text_words`
            so that both sides weigh the same.
        words: Length limit of the joint summary, in words.
        progress: Called with the number of newly finished prompts.

    Returns:
        `tables.SUMMARIES`, one row per item in the order given.
    """
    drafts = [_draft(row, modalities) for row in items.iter_rows(named=True)]
    asked: list[tuple[_Draft, Modality]] = [
        (draft, "text") for draft in drafts if draft.has_text and "text" in modalities
    ]
    asked += [(draft, "image") for draft in drafts if draft.image_status == "ok"]
    limits = {"text": text_words, "image": image_words}
    one_side = (_side_prompt(draft, side, item_type, limits[side]) for draft, side in asked)
    for index, answer in _answers(backend, one_side, progress):
        draft, side = asked[index]
        _take_side(draft, side, answer, limits[side])
    both = [draft for draft in drafts if draft.text_summary and draft.image_summary]
    fusions = (_fusion_prompt(draft, item_type, words) for draft in both)
    for index, answer in _answers(backend, fusions, progress):
        _take_fusion(both[index], answer, words)
    for draft in drafts:
        _settle(draft, item_type)
    return pl.DataFrame([_row(draft) for draft in drafts], schema=dict(tables.SUMMARIES))


def n_prompts(items: pl.DataFrame, modalities: Sequence[Modality] = ("text", "image")) -> int:
    """How many prompts `summarize` will ask at most: for progress bars and plans."""
    n_text = items.height if "text" in modalities else 0
    n_image = items["image"].count() if "image" in modalities else 0
    return n_text + n_image + min(n_text, n_image)


def _draft(row: dict[str, str | None], modalities: Sequence[Modality]) -> _Draft:
    image = Path(row["image"]) if row["image"] else None
    item = Item(row["item_id"] or "", row["title"] or "", row["text"] or "", image)
    if "image" not in modalities:
        return _Draft(item, "unused")
    found = image_status(image)
    if found.status == "unreadable":
        logger.warning("item %s goes on without its image: %s", item.item_id, found.reason)
    return _Draft(item, found.status)


def _side_prompt(draft: _Draft, side: Modality, item_type: str, words: int) -> Prompt:
    budget = words * _TOKENS_PER_WORD
    if side == "image":
        return templates.render(
            "image_description",
            {"words": words},
            item_type=item_type,
            image=draft.item.image,
            max_new_tokens=budget,
        )
    data = {"title": draft.item.title, "text": draft.item.text, "words": words}
    return templates.render(
        "text_summary",
        data,
        item_type=item_type,
        trimmable=("text", "title"),
        max_new_tokens=budget,
    )


def _fusion_prompt(draft: _Draft, item_type: str, words: int) -> Prompt:
    data = {
        "text_summary": draft.text_summary,
        "image_summary": draft.image_summary,
        "words": words,
    }
    return templates.render(
        "fusion", data, item_type=item_type, max_new_tokens=words * _TOKENS_PER_WORD
    )


def _answers(
    backend: Backend, asked: Iterable[Prompt], progress: Progress | None
) -> Iterable[tuple[int, Answer]]:
    for index, answer in output_checks.ask(backend, asked):
        yield index, answer
        if progress is not None:
            progress(1)


def _take_side(draft: _Draft, side: Modality, answer: Answer, max_words: int) -> None:
    text, flags = _taken(answer, side, max_words)
    draft.flags += flags
    if not text:
        logger.warning(
            "item %s has no %s summary: %s",
            draft.item.item_id,
            side,
            answer.completion.error or "empty answer",
        )
        # A title is a summary of sorts; for a image there is nothing to fall back on.
        fallback = templates.clean(draft.item.title or draft.item.text)
        text = templates.calibrate(fallback, max_words)[0] if side == "text" else ""
    if side == "text":
        draft.text_summary = text
    else:
        draft.image_summary = text or None


def _take_fusion(draft: _Draft, answer: Answer, max_words: int) -> None:
    draft.summary, flags = _taken(answer, "fusion", max_words)
    draft.flags += flags


def _taken(answer: Answer, step: str, max_words: int) -> tuple[str, list[str]]:
    """The text of an answer, empty where it failed, and what the table says of it."""
    text, cut = templates.calibrate(answer.completion.text, max_words)
    flags = [f"{step}_{flag}" for flag in answer.flags]
    if answer.completion.error is not None or not text:
        return "", [f"{step}_failed", *flags]
    if cut or answer.completion.finish_reason == "length":
        flags.append(f"{step}_cut")
    return text, flags


def _settle(draft: _Draft, item_type: str) -> None:
    """Give a summary to an item that has none yet: from one side, or a declared neutral one."""
    if draft.summary:
        return
    sides = [side for side in (draft.text_summary, draft.image_summary) if side]
    draft.summary = " ".join(sides)
    if not sides:
        draft.flags.append("nothing_to_read")
        draft.summary = f"A {item_type} about which nothing is known."


def _step_of(flag: str) -> int:
    return _STEPS.index(flag.partition("_")[0])


def _row(draft: _Draft) -> dict[str, str | None]:
    return {
        "item_id": draft.item.item_id,
        "text_summary": draft.text_summary,
        "image_summary": draft.image_summary,
        "summary": draft.summary,
        "image_status": draft.image_status,
        # Answers come in any order; what is said of them does not depend on it.
        "flags": ",".join(sorted(draft.flags, key=_step_of)),
    }
