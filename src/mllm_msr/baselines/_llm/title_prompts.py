"""Prompts with the titles of the history in place of a written preference.

Used by `llava_zero_shot` and `tallrec` (Bao et al. 2023). The question, the answers and the scoring
are those of MLLM-MSR, so that the comparison isolates the preference and the fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.prompts.templates import render
from mllm_msr.ranker.examples import Example, items_by_id
from mllm_msr.ranker.user_inputs import UserInput, UserInputs
from mllm_msr.tables import CANDIDATES, conform
from mllm_msr.types import Prompt


def titles_prompt(
    history: Sequence[str],
    title: str,
    *,
    item_type: str,
    images: Sequence[Path] = (),
    max_text_tokens: int | None = None,
) -> Prompt:
    """Return the question whether an item comes next after items with these titles.

    Args:
        history: Titles, the latest first, so that truncation drops the oldest; may be empty.
        title: Title of the candidate.
        item_type: Word for an item in the prompt, such as "movie".
        images: Images of the candidate.
        max_text_tokens: Upper bound on the text tokens; the history is trimmed first, then the
            title.
    """
    shown = UserInput(history=tuple(history)).variables()["history"]
    return render(
        "recommend_titles",
        {"history": shown, "title": title},
        item_type=item_type,
        images=images,
        trimmable=("history", "title"),
        max_new_tokens=1,
        max_text_tokens=max_text_tokens,
    )


def title_examples(
    candidates: pl.DataFrame,
    interactions: pl.DataFrame,
    items: pl.DataFrame,
    *,
    item_type: str,
    n_last: int,
    use_images: bool,
    max_text_tokens: int | None = None,
) -> Iterator[Example]:
    """Yield the examples of candidate rows whose items are known, in the order of the rows.

    Args:
        candidates: `tables.CANDIDATES`.
        interactions: `tables.INTERACTIONS`; only interactions before a row's position are used.
        items: `tables.ITEMS` with absolute image paths.
        item_type: As for `titles_prompt`.
        n_last: Number of latest titles of a history that are shown.
        use_images: Whether the candidate's images are shown.
        max_text_tokens: As for `titles_prompt`.
    """
    rows = conform(candidates, CANDIDATES, name="candidates")
    known = items_by_id(items)
    users = UserInputs(
        RecommendSettings(reads="history", history_items=n_last),
        preferences=None,
        interactions=interactions,
        titles={item.item_id: item.title for item in known.values()},
    )
    for row in rows.iter_rows(named=True):
        if row["item_id"] not in known:
            continue
        item = known[row["item_id"]]
        prompt = titles_prompt(
            users.before(row["user_id"], row["position"]).history or (),
            item.title,
            item_type=item_type,
            images=item.images if use_images else (),
            max_text_tokens=max_text_tokens,
        )
        yield Example(**row, prompt=prompt)
