"""Users of the service: histories and preferences from the run folder and the service's database.

A user's history is the history in the run folder followed by the events since. Their preferences
are those in the database or, if there are none yet, those in the run folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

import polars as pl
from cachetools import LRUCache

from mllm_msr.errors import DataError
from mllm_msr.recommend.profiles import Profile, UserProfiles
from mllm_msr.serving.state import ServiceState
from mllm_msr.serving.user_index import UserIndex
from mllm_msr.summarization.preference_history import latest_preference, n_items_read

_MAX_CACHED_USERS: Final = 2000  # about 10 kB each


class UnknownUserError(DataError):
    """A user whom neither the run nor the service has seen."""


@dataclass(frozen=True, slots=True)
class User:
    """A user at one moment.

    Attributes:
        profile: History and latest preference.
        preference_history: The user's rows of `tables.PREFERENCES`.
        known: Whether the run or the service has seen the user.
    """

    profile: Profile
    preference_history: pl.DataFrame
    known: bool

    @property
    def n_items(self) -> int:
        """Return how many items the latest preference has read."""
        return n_items_read(self.preference_history)


@final
class UserStore:
    """Cached access to the users of the service, for use from its event loop.

    Args:
        run_users: Profiles of the run's users.
        state: The service's database.
        database_lock: Held while the database is written.
    """

    def __init__(
        self, run_users: UserProfiles, state: ServiceState, *, database_lock: asyncio.Lock
    ) -> None:
        self._run_users = run_users
        self._state = state
        self._database_lock = database_lock
        self._index: UserIndex | None = None
        self._cache: LRUCache[str, User] = LRUCache(_MAX_CACHED_USERS)
        self._n_changes = 0

    async def get(self, user_id: str) -> User:
        """Return a user from the cache, or from the database and the run folder.

        Only this service writes the database, so cached users are valid until `invalidate`.
        """
        if (cached := self._cache.get(user_id)) is not None:
            return cached
        n_changes = self._n_changes
        state = await asyncio.to_thread(self._state.user, user_id)
        history, preferences = state.events, state.preference_history
        if not state.deleted:
            history = self._run_users.history(user_id) + history
            if preferences.is_empty():
                preferences = self._run_users.preference_history(user_id)
        profile = Profile(user_id, history, latest_preference(preferences))
        user = User(profile, preferences, known=bool(history))
        if n_changes == self._n_changes:  # otherwise it may have been read before the change
            self._cache[user_id] = user
        return user

    async def find(self, contains: str, *, limit: int) -> tuple[list[str], int]:
        """Find known users whose id contains a text, ignoring case.

        Args:
            contains: The text; an empty one matches all users.
            limit: Largest number of ids to return.

        Returns:
            The first matching ids in sorted order, and the number of all matching ids.
        """
        async with self._database_lock:  # no user is added or deleted while the index is built
            if self._index is None:
                self._index = await asyncio.to_thread(self._build_index)
        return await asyncio.to_thread(self._index.find, contains, limit=limit)

    def _build_index(self) -> UserIndex:
        with_events = set(self._state.users_with_events())
        deleted = self._state.deleted_users() - with_events
        return UserIndex(with_events.union(self._run_users) - deleted)

    def add_to_index(self, user_ids: Iterable[str]) -> None:
        """Make users with stored events findable; the caller holds `database_lock`."""
        if self._index is not None:
            for user_id in user_ids:
                self._index.add(user_id)

    def invalidate(self, user_ids: Iterable[str]) -> None:
        """Drop users from the cache whose rows in the database have changed, or may have."""
        self._n_changes += 1
        for user_id in user_ids:
            self._cache.pop(user_id, None)

    async def delete(self, user_id: str) -> tuple[int, int]:
        """Delete a user; return the number of deleted events and preferences."""
        async with self._database_lock:
            try:
                counts = await asyncio.to_thread(
                    self._state.delete_user, user_id, in_run=user_id in self._run_users
                )
            finally:
                self.invalidate([user_id])
            if self._index is not None:
                self._index.remove(user_id)
        return counts
