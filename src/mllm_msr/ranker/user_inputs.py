"""What the ranker reads about a user: the written preference, titles of the history, or both.

`recommend.reads` selects it. A user's input before a target contains neither the target nor
anything after it.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.errors import DataError
from mllm_msr.prompts.templates import clean
from mllm_msr.ranker.collaborative import CollaborativeVectors
from mllm_msr.tables import INTERACTIONS, PREFERENCES, conform
from mllm_msr.types import Vector

# Preference in the prompt of users for whom none was inferred before the target.
NEUTRAL_PREFERENCE: Final = "The user has not shown a preference yet."
# History in the prompt of users without a title in their history.
NO_HISTORY: Final = "nothing yet"

# Longest title in a history, in characters.
_MAX_TITLE: Final = 120


@dataclass(frozen=True, slots=True)
class UserInput:
    """What a prompt says about a user.

    Attributes:
        preference: The written preference, which may be blank; None if the ranker does not read it.
        history: Titles of the latest items, the latest first; None if the ranker does not read
            them.
        state: Vector of the user in a collaborative model, empty if it is unknown; None if the
            ranker does not read it.
    """

    preference: str | None = None
    history: tuple[str, ...] | None = None
    state: Vector | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is known about the user."""
        return not (self.preference or "").strip() and not self.history

    def variables(self) -> dict[str, str | None]:
        """Return the variables `preference` and `history` of the prompt templates.

        The latest title comes first, so that truncation drops the oldest.
        """
        preference, history = self.preference, None
        if preference is not None:
            preference = preference.strip() or NEUTRAL_PREFERENCE
        if self.history is not None:
            history = "; ".join(clean(title, max_chars=_MAX_TITLE) for title in self.history)
            history = history or NO_HISTORY
        return {"preference": preference, "history": history}


def latest_titles(
    history: Iterable[str], title: Callable[[str], str], settings: RecommendSettings
) -> tuple[str, ...]:
    """Return the titles of the latest items, the latest first; items without one are skipped.

    Args:
        history: Item ids, the latest first.
        title: Returns the title of an item; blank if it has none.
        settings: The section `recommend`.
    """
    latest = itertools.islice(history, settings.history_items)
    return tuple(text for item_id in latest if (text := title(item_id).strip()))


class UserInputs:
    """Inputs of users before their targets.

    Args:
        settings: The section `recommend`.
        preferences: `tables.PREFERENCES`, all preferences of each user, in any order.
        interactions: `tables.INTERACTIONS`.
        titles: Title of each item.
        vectors: Vectors of users, if the ranker reads them.
        targets: Columns `user_id` and `position` of the targets; read with `vectors` only.

    Raises:
        DataError: A table that the ranker reads is missing.
    """

    def __init__(
        self,
        settings: RecommendSettings,
        *,
        preferences: pl.DataFrame | None,
        interactions: pl.DataFrame | None,
        titles: Mapping[str, str],
        vectors: CollaborativeVectors | None = None,
        targets: pl.DataFrame | None = None,
    ) -> None:
        self._settings = settings
        self._states: Mapping[tuple[str, int], Vector] = {}
        if vectors is not None:
            if interactions is None or targets is None:
                raise DataError("recommend.collaborative needs the interactions. Pass them.")
            self._states = vectors.states(targets, interactions)
        self._titles = titles
        self._preferences: _Histories | None = None
        self._items: _Histories | None = None
        if settings.reads_preference:
            if preferences is None:
                raise DataError("MLLM-MSR needs preferences. Run the stage 'infer' first.")
            table = conform(preferences, PREFERENCES, name="preferences")
            table = table.sort("user_id", "n_items", "block")
            self._preferences = _Histories(table.select("user_id", "n_items", "preference"))
        if settings.reads_history:
            if interactions is None:
                raise DataError(
                    f"recommend.reads is {settings.reads}, which needs the interactions. Pass them."
                )
            table = conform(interactions, INTERACTIONS, name="interactions")
            # An interaction at position p is known to targets after it.
            table = table.sort("user_id", "position").with_columns(pl.col("position") + 1)
            self._items = _Histories(table.select("user_id", "position", "item_id"))

    def before(self, user_id: str, position: int) -> UserInput:
        """Return the input of a user before the target at a position."""
        preference: str | None = None
        history: tuple[str, ...] | None = None
        if self._preferences is not None:
            known = self._preferences.before(user_id, position)
            preference = known[-1] if known else ""
        if self._items is not None:
            known = self._items.before(user_id, position)
            history = latest_titles(
                reversed(known), lambda one: self._titles.get(one, ""), self._settings
            )
        return UserInput(preference, history, self._states.get((user_id, position)))


class _Histories:
    """Texts of each user, each with the first position of a target that may read it.

    Args:
        rows: User, position and text, sorted by user and position.
    """

    def __init__(self, rows: pl.DataFrame) -> None:
        self._positions: dict[str, list[int]] = {}
        self._texts: dict[str, list[str]] = {}
        for user, position, text in rows.iter_rows():
            self._positions.setdefault(user, []).append(position)
            self._texts.setdefault(user, []).append(text or "")

    def before(self, user_id: str, position: int) -> list[str]:
        """Return the texts that a target at a position may read, the oldest first."""
        end = bisect.bisect_right(self._positions.get(user_id, []), position)
        return self._texts[user_id][:end] if end else []
