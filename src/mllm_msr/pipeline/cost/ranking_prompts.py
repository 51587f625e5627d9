"""Prompts of the ranker for a sample of candidates, before preferences have been inferred.

The history of a candidate is the real one. Preferences and summaries are those that the estimate
has so far, which may belong to other users and items: their lengths matter here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, final

import polars as pl

from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.config.settings import Settings
from mllm_msr.prompts.item_types import ItemType
from mllm_msr.ranker.examples import build_prompt, item_text, items_by_id
from mllm_msr.ranker.user_inputs import UserInput, UserInputs
from mllm_msr.types import Item, Prompt

# Preference, title or text that differs from the real ones from its first word.
_OTHER: Final = "Something else."


@final
class RankingPrompts:
    """Builder of the ranker's prompts for an estimate.

    Args:
        settings: The run's settings.
        catalog: `tables.ITEMS`.
        interactions: `tables.INTERACTIONS`.
        item_type: Words for an item.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: pl.DataFrame,
        interactions: pl.DataFrame,
        *,
        item_type: ItemType,
    ) -> None:
        self._prompt = settings.recommend
        self._max_text_tokens = settings.train.max_text_tokens
        self._item_type = item_type
        self._items = items_by_id(catalog)
        self._users: UserInputs | None = None
        if self._prompt.reads_history:
            self._users = UserInputs(
                self._prompt.model_copy(update={"reads": "history"}),
                preferences=None,
                interactions=interactions,
                titles={item.item_id: item.title for item in self._items.values()},
            )

    def build(
        self,
        rows: pl.DataFrame,
        preferences: Sequence[str],
        summaries: pl.DataFrame,
        order: PromptOrder,
        *,
        other_user: bool = False,
        other_item: bool = False,
    ) -> Iterator[Prompt]:
        """Yield the prompts of candidate rows.

        Args:
            rows: Columns `user_id`, `position` and `item_id`.
            preferences: Preferences, which are spread over the rows.
            summaries: `tables.SUMMARIES`; they are spread over items without one.
            order: Order of the prompts.
            other_user: Whether all prompts are of a user who shares nothing with the real ones.
            other_item: The same for the item.
        """
        step = max(1, len(preferences) // max(1, rows.height))
        texts = itertools.cycle(preferences[::step] or ("",))
        known = dict(summaries.select("item_id", "summary").iter_rows())
        written = itertools.cycle(known.values() or ("",))
        keys = rows.select("user_id", "position", "item_id").iter_rows()
        for (user_id, position, item_id), text in zip(keys, texts, strict=False):
            history: tuple[str, ...] | None = None
            if self._users is not None:
                history = self._users.before(user_id, position).history
                history = (_OTHER,) if other_user else history
            preference = _OTHER if other_user else text
            item = Item("", _OTHER, _OTHER) if other_item else self._items[item_id]
            summary = _OTHER if other_item else known.get(item_id) or next(written)
            yield build_prompt(
                UserInput(preference if self._prompt.reads_preference else None, history),
                item,
                item_type=self._item_type,
                order=order,
                text=item_text(item, summary, self._prompt),
                max_text_tokens=self._max_text_tokens,
                use_images=self._prompt.use_images,
            )
