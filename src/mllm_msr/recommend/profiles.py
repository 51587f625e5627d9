"""Profiles of a run's users: the items of their history and their written preferences.

Candidate generators propose items for a profile, and its preference is part of the ranker's prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import polars as pl

from mllm_msr import tables
from mllm_msr.summarization.preference_history import latest_preference


@dataclass(frozen=True, slots=True)
class Profile:
    """History and preference of a user at one point in time.

    Attributes:
        user_id: The user; never part of a prompt. Empty for an anonymous user.
        history: Ids of the items that the user has interacted with, oldest first.
        preference: The latest written preference; blank if there is none.
        was_deleted: Whether nothing that the run knows about the user may be read.
    """

    user_id: str
    history: tuple[str, ...] = ()
    preference: str = ""
    was_deleted: bool = False

    def history_frame(self) -> pl.DataFrame:
        """Return the history as `tables.INTERACTIONS`, with the position as timestamp."""
        return tables.history_frame(self.user_id, self.history)


@final
class UserProfiles:
    """Histories and preference histories of a run's users, by user id.

    Args:
        interactions: `tables.INTERACTIONS` that may be used.
        preferences: `tables.PREFERENCES`.
    """

    def __init__(self, interactions: pl.DataFrame, preferences: pl.DataFrame) -> None:
        grouped = interactions.sort("user_id", "position").group_by("user_id").agg("item_id")
        self._histories = {user: tuple(item_ids) for user, item_ids in grouped.iter_rows()}
        self._preferences = preferences.partition_by("user_id", as_dict=True)

    def __repr__(self) -> str:
        return f"UserProfiles({len(self):,} users)"

    def __len__(self) -> int:
        return len(self._histories)

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._histories

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of the users, sorted."""
        return iter(sorted(self._histories))

    def history(self, user_id: str) -> tuple[str, ...]:
        """Return the items of a user, oldest first; empty for an unknown user."""
        return self._histories.get(user_id, ())

    def preference_history(self, user_id: str) -> pl.DataFrame:
        """Return `tables.PREFERENCES` of a user; empty for an unknown user.

        Preferences inferred from items beyond the history, such as hidden targets, are left out.
        """
        rows = self._preferences.get((user_id,), tables.empty(tables.PREFERENCES))
        return rows.filter(pl.col("n_items") <= len(self.history(user_id))).sort("block")

    def set_preference_history(self, user_id: str, preferences: pl.DataFrame) -> None:
        """Replace `tables.PREFERENCES` of a user in memory."""
        self._preferences[user_id,] = preferences

    def profile(self, user_id: str) -> Profile:
        """Return the history and latest preference of a user."""
        preference = latest_preference(self.preference_history(user_id))
        return Profile(user_id, self.history(user_id), preference)

    def item_counts(self) -> Counter[str]:
        """Return the number of interactions with each item."""
        return Counter(item_id for history in self._histories.values() for item_id in history)
