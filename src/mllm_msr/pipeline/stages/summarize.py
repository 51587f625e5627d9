"""Stage "summarize": write one summary of the title, text and image of each item.

Section "Multimodal Item Summarization" of the paper.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from mllm_msr.config.settings import InferSettings, SummarizeSettings
from mllm_msr.interfaces import Backend
from mllm_msr.prompts.item_types import ItemType
from mllm_msr.summarization.faithfulness import mean_measures
from mllm_msr.summarization.items import summarize
from mllm_msr.summarization.preferences import items_read

TEMPLATES = ("text_summary", "image_description", "fusion")


def items_to_summarize(
    items: pl.DataFrame,
    histories: pl.DataFrame,
    settings: SummarizeSettings,
    infer: InferSettings,
) -> pl.DataFrame:
    """Return the items that `summarize.scope` selects: all, or those used by preferences."""
    if settings.scope == "all":
        return items
    read = items_read(histories, block_size=infer.block_size, max_items=infer.max_items)
    return items.filter(pl.col("item_id").is_in(read.implode()))


def summarize_items(
    items: pl.DataFrame,
    backend: Backend,
    settings: SummarizeSettings,
    *,
    item_type: str | ItemType,
    progress: Callable[[int], None],
) -> tuple[pl.DataFrame, dict[str, float]]:
    """Summarize items.

    Args:
        items: `tables.ITEMS` with absolute image paths.
        backend: Backend that generates the summaries.
        settings: The section `summarize`.
        item_type: Word for an item in the prompts.
        progress: Called with the number of prompts answered since the last call.

    Returns:
        `tables.SUMMARIES`, and counts of images and flags, and mean source coverage and
        repetition of the text summaries.
    """
    options = settings.arguments()
    summaries = summarize(items, backend, item_type=item_type, progress=progress, **options)
    images = summaries["image_status"].value_counts()
    flags = summaries["flags"].str.split(",").explode().value_counts()
    counts: dict[str, float] = {
        "items": summaries.height,
        **{f"image_{status}": n for status, n in images.iter_rows()},
        **{flag: n for flag, n in flags.iter_rows() if flag},
    }
    rows = summaries.join(items.select("item_id", "title", "text"), on="item_id")
    rows = rows.drop_nulls("text_summary").with_columns(pl.col("title", "text").fill_null(""))
    measured = mean_measures(
        (summary, f"{title} {text}")
        for summary, title, text in rows.select("text_summary", "title", "text").iter_rows()
    )
    return summaries, counts | measured
