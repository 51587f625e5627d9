"""The recommender's dialogue (Figure 3), built in this one place for training, scoring and serving.

A candidate row becomes an `Example`: the user's preference as it stood before the target, the
candidate's title and image, and the question whether it comes next. Free of tensors and of any
model's markup. Section "Tuning MLLM based Recommender" of the paper.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from mllm_msr.errors import DataError
from mllm_msr.prompts.templates import render
from mllm_msr.tables import CANDIDATES, ITEMS, PREFERENCES, conform
from mllm_msr.types import Item, Prompt

POSITIVE_ANSWER: Final = "yes"
NEGATIVE_ANSWER: Final = "no"

# What the prompt says of a user before whose target no preference was inferred.
NEUTRAL_PREFERENCE: Final = "The user has not shown a preference yet."


@dataclass(frozen=True, slots=True)
class Example:
    """One candidate row and the dialogue that asks about it.

    Attributes:
        fold: Fold of the row.
        split: "train", "validation" or "test".
        negatives: How the row's label-0 neighbours were drawn ("uniform", "popularity").
        user_id: The user; never part of the prompt.
        position: The target's position in the user's history.
        item_id: The candidate; never part of the prompt.
        label: 1 where the candidate is the target, else 0.
        prompt: The question.
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
        """The answer that training teaches."""
        return POSITIVE_ANSWER if self.label == 1 else NEGATIVE_ANSWER


def build_prompt(
    preference: str,
    item: Item,
    *,
    item_type: str,
    max_text_tokens: int | None = None,
    use_images: bool = True,
) -> Prompt:
    """The question whether an item comes next for a user of this preference.

    Args:
        preference: The user's preference; blank stands for `NEUTRAL_PREFERENCE`.
        item: The candidate. Its id and its text stay out, as in the paper.
        item_type: What the domain calls an item.
        max_text_tokens: Budget for the text; the preference is cut to meet it, and after all
            of it the title.
        use_images: Whether the image is shown where there is one.

    Returns:
        A one-turn dialogue, of which one new token is read.
    """
    return render(
        "recommend",
        {"preference": preference.strip() or NEUTRAL_PREFERENCE, "title": item.title},
        item_type=item_type,
        image=item.image if use_images else None,
        trimmable=("preference", "title"),
        max_new_tokens=1,
        max_text_tokens=max_text_tokens,
    )


def build_examples(
    candidates: pl.DataFrame,
    preferences: pl.DataFrame,
    items: pl.DataFrame,
    *,
    item_type: str,
    max_text_tokens: int | None = None,
    use_images: bool = True,
    image_status: Mapping[str, str] | None = None,
    image_root: Path | None = None,
) -> Iterator[Example]:
    """Examples of candidate rows, lazily and in the rows' order.

    A row sees the latest preference of its user that has read no interaction at or after the
    row's position; a user without one gets `NEUTRAL_PREFERENCE`.

    Args:
        candidates: `tables.CANDIDATES`.
        preferences: `tables.PREFERENCES`, the whole preference_history in any order.
        items: `tables.ITEMS`; a null image makes the text-only form of the question.
        item_type: What the domain calls an item.
        max_text_tokens: Budget for the text of each prompt.
        use_images: Whether images are shown at all.
        image_status: `image_status` of `tables.SUMMARIES` by item; items whose status is not
            "ok" get the text-only form. Items that it does not name count as "ok".
        image_root: Folder to which relative image paths belong.

    Raises:
        DataError: A column is missing, or a candidate is not among the items.
    """
    rows = conform(candidates, CANDIDATES, name="candidates")
    catalogue = _catalogue(items, image_status=image_status or {}, image_root=image_root)
    unknown = rows.filter(~pl.col("item_id").is_in(list(catalogue)))
    if unknown.height:
        raise DataError(
            needed="candidates that the items table knows",
            received=f"{unknown.height} others, such as {unknown['item_id'][0]!r}",
            remedy="add them to the items, or draw the candidates again",
        )
    preference_histories = _Trails(preferences)
    return (
        Example(
            **row,
            prompt=build_prompt(
                preference_histories.before(row["user_id"], row["position"]),
                catalogue[row["item_id"]],
                item_type=item_type,
                max_text_tokens=max_text_tokens,
                use_images=use_images,
            ),
        )
        for row in rows.iter_rows(named=True)
    )


def _catalogue(
    items: pl.DataFrame, *, image_status: Mapping[str, str], image_root: Path | None
) -> dict[str, Item]:
    known: dict[str, Item] = {}
    for row in conform(items, ITEMS, name="items").iter_rows(named=True):
        item_id, image = row["item_id"], row["image"]
        path = None
        if image and image_status.get(item_id, "ok") == "ok":
            path = Path(image) if image_root is None else image_root / image
        known[item_id] = Item(item_id, row["title"] or "", row["text"] or "", path)
    return known


class _Trails:
    """Preference texts by user, each with the number of interactions that it has read."""

    def __init__(self, preferences: pl.DataFrame) -> None:
        table = conform(preferences, PREFERENCES, name="preferences").sort(
            "user_id", "n_items", "block"
        )
        self._read: dict[str, list[int]] = {}
        self._texts: dict[str, list[str]] = {}
        for user, n_items, text in table.select("user_id", "n_items", "preference").iter_rows():
            self._read.setdefault(user, []).append(n_items)
            self._texts.setdefault(user, []).append(text or "")

    def before(self, user_id: str, position: int) -> str:
        """The user's latest preference that read at most `position` interactions, or ""."""
        index = bisect.bisect_right(self._read.get(user_id, []), position)
        return self._texts[user_id][index - 1] if index else ""
