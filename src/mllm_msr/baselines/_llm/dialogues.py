"""Dialogues of the baselines that ask a language model without a written preference.

`llava_zero_shot` and `tallrec` put the titles of the history where MLLM-MSR puts its preference
(the latter as in Bao et al. 2023); the question, the answers and the way in which the
answer's probability is read are those of the recommender, so that the comparison is about
the preference and the tuning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import polars as pl

from mllm_msr import registry
from mllm_msr.baselines._shared.catalog import histories
from mllm_msr.interfaces import Backend
from mllm_msr.prompts.templates import clean, render
from mllm_msr.ranker.examples import Example
from mllm_msr.ranker.scoring import NEUTRAL_SCORE, score_examples
from mllm_msr.tables import CANDIDATES, ITEMS, conform
from mllm_msr.types import Prompt

# What the prompt says where no title of a history is known.
NO_HISTORY: Final = "nothing yet"

_MAX_TITLE: Final = 120


def titles_prompt(
    history: Sequence[str],
    title: str,
    *,
    item_type: str,
    image: Path | None = None,
    max_text_tokens: int | None = None,
) -> Prompt:
    """The question whether an item comes next after items of these titles.

    Args:
        history: Titles, the latest first, so that a budget takes the oldest; may be empty.
        title: The candidate's.
        item_type: What the domain calls an item.
        image: The candidate's image.
        max_text_tokens: Budget for the text; the history is cut to meet it, then the title.
    """
    joined = "; ".join(clean(one, max_chars=_MAX_TITLE) for one in history)
    return render(
        "recommend_titles",
        {"history": joined or NO_HISTORY, "title": title},
        item_type=item_type,
        image=image,
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
    """Examples of candidate rows whose items are known, lazily and in the rows' order.

    Args:
        candidates: `tables.CANDIDATES`.
        interactions: `tables.INTERACTIONS`; a row sees those of its user before its position.
        items: `tables.ITEMS`, paths of images absolute.
        item_type: What the domain calls an item.
        n_last: Titles of a history that are shown, the latest.
        use_images: Whether the candidate's image is shown.
        max_text_tokens: As for `titles_prompt`.
    """
    rows = conform(candidates, CANDIDATES, name="candidates")
    known = {
        row["item_id"]: (row["title"] or "", row["image"] if use_images else None)
        for row in conform(items, ITEMS, name="items").iter_rows(named=True)
    }
    shown = _shown_titles(rows, interactions, items, n_last=n_last)
    for row in rows.iter_rows(named=True):
        if row["item_id"] not in known:
            continue
        title, image = known[row["item_id"]]
        prompt = titles_prompt(
            shown.get((row["user_id"], row["position"]), []),
            title,
            item_type=item_type,
            image=Path(image) if image else None,
            max_text_tokens=max_text_tokens,
        )
        yield Example(**row, prompt=prompt)


def score_dialogues(
    candidates: pl.DataFrame,
    interactions: pl.DataFrame,
    items: pl.DataFrame,
    *,
    backend: str,
    options: Mapping[str, Any],
    max_error_rate: float,
    **form: Any,
) -> pl.DataFrame:
    """`Recommender.score` by P(yes); items without a title in `items` get the neutral 0.5.

    Args:
        candidates: As for `Recommender.score`.
        interactions: As for `Recommender.score`.
        items: `tables.ITEMS`.
        backend: A name of `mllm-msr list backends`.
        options: Its constructor arguments.
        max_error_rate: Share of prompts that may fail, in [0, 1].
        **form: Further arguments of `title_examples`.

    Raises:
        BackendError: The backend cannot go on, or too many prompts failed.
    """
    # Rows without fold and label are welcome; a row's number stands for them.
    rows = candidates.select(
        fold=pl.int_range(pl.len(), dtype=pl.Int32),
        split=pl.lit("test"),
        negatives=pl.lit(""),
        user_id="user_id",
        position="position",
        item_id="item_id",
        label=pl.lit(0, dtype=pl.Int8),
    )
    opened = cast("Backend", registry.find("backends", backend)(**options))
    with contextlib.closing(opened):
        scores, _ = score_examples(
            title_examples(rows, interactions, items, **form),
            opened,
            max_error_rate=max_error_rate,
        )
    found = rows.select("fold").join(
        scores.select("fold", "score"), on="fold", how="left", maintain_order="left"
    )
    return candidates.with_columns(found["score"].fill_null(NEUTRAL_SCORE))


def _shown_titles(
    rows: pl.DataFrame, interactions: pl.DataFrame, items: pl.DataFrame, *, n_last: int
) -> dict[tuple[str, int], list[str]]:
    """Titles by user and position, the latest first; items without a title are left out."""
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
