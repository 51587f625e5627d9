"""Stage "infer": infer a written preference from each user's history, block by block.

Section "Recurrent User Preference Inference" of the paper.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from mllm_msr.config.settings import InferSettings
from mllm_msr.interfaces import Backend
from mllm_msr.prompts.item_types import ItemType
from mllm_msr.summarization.faithfulness import mean_measures
from mllm_msr.summarization.preferences import OPENING, infer_preferences

TEMPLATES = ("preference_first", "preference_update")


def infer(
    histories: pl.DataFrame,
    summaries: pl.DataFrame,
    backend: Backend,
    settings: InferSettings,
    *,
    item_type: str | ItemType,
    every_block: bool,
    progress: Callable[[int], None] | None = None,
    previous: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, dict[str, float]]:
    """Infer preferences.

    Args:
        histories: `tables.INTERACTIONS` that the preferences are inferred from.
        summaries: `tables.SUMMARIES`.
        backend: Backend that generates the preferences.
        settings: The section `infer`.
        item_type: Word for an item in the prompts.
        every_block: For the direct method, whether to infer at the end of every block as well.
        progress: Called with the number of prompts answered since the last call.
        previous: `tables.PREFERENCES` of shorter histories, whose full blocks are reused.

    Returns:
        `tables.PREFERENCES`; counts of users, blocks and flagged texts; and the mean source
        coverage and repetition of the final preferences.
    """
    preferences = infer_preferences(
        histories,
        summaries,
        backend,
        item_type=item_type,
        every_block=every_block,
        progress=progress,
        previous=previous,
        **settings.arguments(),
    )
    counts: dict[str, float] = {
        "users": preferences["user_id"].n_unique(),
        "blocks": preferences.height,
        "flagged": preferences.filter(pl.col("flags") != "").height,
    }
    return preferences, counts | _measure(preferences, histories, summaries, settings)


def _measure(
    preferences: pl.DataFrame,
    histories: pl.DataFrame,
    summaries: pl.DataFrame,
    settings: InferSettings,
) -> dict[str, float]:
    """Compare each user's final preference with the summaries of the whole history."""
    column = "summary" if settings.use_images else "text_summary"
    read = (
        histories.join(summaries.select("item_id", column), on="item_id")
        .group_by("user_id")
        .agg(pl.col(column).str.join(" "))
    )
    final = preferences.filter("final").join(read, on="user_id").sort("user_id")
    return mean_measures(
        (preference.removeprefix(OPENING), source)
        for preference, source in final.select("preference", column).iter_rows()
    )
