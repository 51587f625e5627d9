"""Prompts with the titles of the history in place of a written preference.

Used by `llava_zero_shot` and `tallrec` (Bao et al. 2023). The question, the answers and the scoring
are those of MLLM-MSR, so that the comparison isolates the preference and the fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from mllm_msr.baselines._shared.catalog import histories
from mllm_msr.prompts.templates import clean, render
from mllm_msr.ranker.examples import Example
from mllm_msr.tables import CANDIDATES, ITEMS, conform
from mllm_msr.types import Item, Prompt

# History in the prompt if no title is known.
NO_HISTORY: Final = "nothing yet"

_MAX_TITLE: Final = 120


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
    joined = "; ".join(clean(one, max_chars=_MAX_TITLE) for one in history)
    return render(
        "recommend_titles",
        {"history": joined or NO_HISTORY, "title": title},
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
    known = {
        row["item_id"]: Item.from_row(row)
        for row in conform(items, ITEMS, name="items").iter_rows(named=True)
    }
    titles = _titles_by_user(rows, interactions, items, n_last=n_last)
    for row in rows.iter_rows(named=True):
        if row["item_id"] not in known:
            continue
        item = known[row["item_id"]]
        prompt = titles_prompt(
            titles.get((row["user_id"], row["position"]), []),
            item.title,
            item_type=item_type,
            images=item.images if use_images else (),
            max_text_tokens=max_text_tokens,
        )
        yield Example(**row, prompt=prompt)


def _titles_by_user(
    rows: pl.DataFrame, interactions: pl.DataFrame, items: pl.DataFrame, *, n_last: int
) -> dict[tuple[str, int], list[str]]:
    """Return titles by user and position, the latest first; items without a title are skipped."""
    users = rows.select("user_id", "position").unique(maintain_order=True)
    titled = items.select("item_id", "title").filter(pl.col("title").str.strip_chars() != "")
    seen = (
        histories(users, interactions, n_last=n_last)
        .join(titled, on="item_id")
        .sort("row", "age")
        .group_by("row", maintain_order=True)
        .agg("title")
    )
    keys = users.rows()
    return {keys[row]: titles for row, titles in seen.iter_rows()}
