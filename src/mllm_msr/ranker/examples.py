"""Examples: prompts of the MLLM ranker (Figure 3) for training, scoring and serving.

A candidate row becomes an `Example`: the preference of the user before the target, the title and
image of the candidate, and the question whether the user interacts with it next. The prompt begins
with the candidate, as in the paper, or with the user (`recommend.order`): prompts share the work on
what they begin with. Examples contain no tensors and no model-specific markup. Section "Tuning MLLM
based Recommender" of the paper.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import polars as pl

from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.errors import DataError
from mllm_msr.prompts.item_types import ItemType
from mllm_msr.prompts.templates import render
from mllm_msr.tables import CANDIDATES, IMAGE_COLUMNS, ITEMS, PREFERENCES, as_frame, conform
from mllm_msr.types import Item, Prompt

POSITIVE_ANSWER: Final = "yes"
NEGATIVE_ANSWER: Final = "no"

# Template of the prompt for each order.
TEMPLATES: Final[Mapping[PromptOrder, str]] = MappingProxyType(
    {
        "item-first": "recommend",
        "user-first": "recommend_user_first",
        "reranker": "recommend_reranker",
    }
)

# Preference in the prompt of users for whom none was inferred before the target.
NEUTRAL_PREFERENCE: Final = "The user has not shown a preference yet."


@dataclass(frozen=True, slots=True)
class Example:
    """A candidate row and its prompt.

    Attributes:
        fold: Fold of the row.
        split: "train", "validation" or "test".
        negatives: How the negatives of the target were sampled ("uniform" or "popularity").
        user_id: The user; never part of the prompt.
        position: The target's position in the user's history.
        item_id: The candidate; never part of the prompt.
        label: 1 if the candidate is the target, else 0.
        prompt: Question whether the user interacts with the candidate next.
    """

    fold: int
    split: str
    negatives: str
    user_id: str
    position: int
    item_id: str
    label: int
    prompt: Prompt

    @property
    def answer(self) -> str:
        """Return the answer that the model is trained to give."""
        return POSITIVE_ANSWER if self.label == 1 else NEGATIVE_ANSWER


def build_prompt(
    preference: str,
    item: Item,
    *,
    item_type: str | ItemType,
    order: PromptOrder = "item-first",
    max_text_tokens: int | None = None,
    use_images: bool = True,
) -> Prompt:
    """Build the question whether a user with this preference interacts with an item next.

    Args:
        preference: Preference of the user; `NEUTRAL_PREFERENCE` if blank.
        item: Candidate. Its id and its text are not part of the prompt, as in the paper.
        item_type: Word for an item in the prompt, such as "movie".
        order: Whether the prompt begins with the candidate's images or with the preference.
        max_text_tokens: Upper bound on the text tokens; the preference is trimmed first, then the
            title.
        use_images: Show the images of the item if it has some.

    Returns:
        A prompt that asks for one new token, the answer.
    """
    return render(
        TEMPLATES[order],
        {"preference": preference.strip() or NEUTRAL_PREFERENCE, "title": item.title},
        item_type=item_type,
        images=item.images if use_images else (),
        trimmable=("preference", "title"),
        max_new_tokens=1,
        max_text_tokens=max_text_tokens,
    )


def build_examples(
    candidates: pl.DataFrame,
    preferences: pl.DataFrame,
    items: pl.DataFrame,
    *,
    item_type: str | ItemType,
    order: PromptOrder = "item-first",
    max_text_tokens: int | None = None,
    use_images: bool = True,
) -> Iterator[Example]:
    """Build examples of candidate rows lazily, in the order of the rows.

    A row gets the latest preference of its user that was inferred from interactions before the
    row's position; without one, `NEUTRAL_PREFERENCE`.

    Args:
        candidates: `tables.CANDIDATES`.
        preferences: `tables.PREFERENCES`: all preferences of each user, in any order.
        items: `tables.ITEMS` with image paths that can be opened; items without an image get the
            text-only prompt.
        item_type: Word for an item in the prompts, such as "movie".
        order: Whether the prompts begin with the candidate's image or with the preference.
        max_text_tokens: Upper bound on the text tokens of each prompt.
        use_images: Show images.

    Raises:
        DataError: A column is missing, or a candidate is not among the items.
    """
    rows = conform(candidates, CANDIDATES, name="candidates")
    catalog = {
        row["item_id"]: Item.from_row(row)
        for row in conform(items, ITEMS, name="items").iter_rows(named=True)
    }
    unknown = rows.filter(~pl.col("item_id").is_in(list(catalog)))
    if unknown.height:
        raise DataError(
            f"{unknown.height} candidates are not in the items table, such as "
            f"{unknown['item_id'][0]!r}. Add them to the items, or prepare the candidates again."
        )
    histories = _PreferenceHistories(as_frame(preferences, name="preferences"))
    return (
        Example(
            **row,
            prompt=build_prompt(
                histories.before(row["user_id"], row["position"]),
                catalog[row["item_id"]],
                item_type=item_type,
                order=order,
                max_text_tokens=max_text_tokens,
                use_images=use_images,
            ),
        )
        for row in rows.iter_rows(named=True)
    )


def hide_unused_images(items: pl.DataFrame, summaries: pl.DataFrame | None) -> pl.DataFrame:
    """Remove the images of items whose summaries were made from text alone.

    A run without the modality "image" is for models that read only text, so its ranker must not
    show images either.

    Args:
        items: `tables.ITEMS`.
        summaries: `tables.SUMMARIES`, or `None` if there are none.
    """
    if summaries is None:
        return items
    unused = summaries.filter(pl.col("image_status") == "unused")["item_id"]
    is_used = ~pl.col("item_id").is_in(unused.implode())
    return items.with_columns(pl.when(is_used).then(IMAGE_COLUMNS))


class _PreferenceHistories:
    """Preferences of each user, with the number of interactions that each was inferred from."""

    def __init__(self, preferences: pl.DataFrame) -> None:
        table = conform(preferences, PREFERENCES, name="preferences").sort(
            "user_id", "n_items", "block"
        )
        self._n_items: dict[str, list[int]] = {}
        self._texts: dict[str, list[str]] = {}
        for user, n_items, text in table.select("user_id", "n_items", "preference").iter_rows():
            self._n_items.setdefault(user, []).append(n_items)
            self._texts.setdefault(user, []).append(text or "")

    def before(self, user_id: str, position: int) -> str:
        """Return the latest preference inferred from at most `position` interactions, or ""."""
        index = bisect.bisect_right(self._n_items.get(user_id, []), position)
        return self._texts[user_id][index - 1] if index else ""
