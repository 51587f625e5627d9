"""Users of the service: histories and preferences from the run folder and the service's database.

The history of a user is the history in the run folder followed by the interactions in the database.
Their preferences are those in the database or, if there are none yet, those in the run folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self, final

import polars as pl
from cachetools import LRUCache

from mllm_msr.errors import DataError
from mllm_msr.recommend.profiles import Profile, UserProfiles
from mllm_msr.serving.state import Removal, ServiceState, StoredEvent
from mllm_msr.serving.user_index import UserIndex
from mllm_msr.summarization.preference_history import latest_preference, n_items_read

_MAX_CACHED_USERS: Final = 2000  # about 10 kB each


class UnknownUserError(DataError):
    """A user is known neither to the run nor to the service."""

    @classmethod
    def of(cls, user_id: str) -> Self:
        """Return the error for an id."""
        return cls(f"Unknown user {user_id!r}. Send events of this user first.")


@dataclass(frozen=True, slots=True)
class User:
    """State of a user at one point in time.

    Attributes:
        profile: History and latest preference.
        preference_history: `tables.PREFERENCES` of the user.
        known: Whether the user is known to the run or the service.
        events: The user's events in the database, in the order of arrival.
    """

    profile: Profile
    preference_history: pl.DataFrame
    known: bool
    events: tuple[StoredEvent, ...] = ()

    @property
    def n_items(self) -> int:
        """Return the number of items that the latest preference was inferred from."""
        return n_items_read(self.preference_history)

    @property
    def dislikes(self) -> frozenset[str]:
        """Return the items whose latest event is a dislike; lists do not contain them."""
        latest = {event.item_id: event.type for event in self.events}
        return frozenset(item_id for item_id, kind in latest.items() if kind == "dislike")


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

        Only this service writes to the database, so cached users are valid until `invalidate`.
        """
        if (cached := self._cache.get(user_id)) is not None:
            return cached
        n_changes = self._n_changes
        state = await asyncio.to_thread(self._state.user, user_id)
        history, preferences = state.history, state.preference_history
        if not state.deleted:
            history = self._run_users.history(user_id) + history
            if preferences.is_empty():
                preferences = self._run_users.preference_history(user_id)
        latest = latest_preference(preferences)
        profile = Profile(user_id, history, latest, was_deleted=state.deleted)
        known = bool(history or state.events)
        user = User(profile, preferences, known=known, events=state.events)
        if n_changes == self._n_changes:  # otherwise the user may have been read before a change
            self._cache[user_id] = user
        return user

    async def find(self, contains: str, *, limit: int) -> tuple[list[str], int]:
        """Find known users whose id contains a text, ignoring case.

        Args:
            contains: The text; an empty text matches all users.
            limit: Maximum number of ids to return.

        Returns:
            The first matching ids in sorted order, and the total number of matching ids.
        """
        index = await self._user_index()
        return await asyncio.to_thread(index.find, contains, limit=limit)

    async def similar(self, user_id: str) -> list[str]:
        """Return the known users with the most similar ids; see `UserIndex.similar`."""
        index = await self._user_index()
        return await asyncio.to_thread(index.similar, user_id)

    async def _user_index(self) -> UserIndex:
        async with self._database_lock:  # no user is added or deleted while the index is built
            if self._index is None:
                self._index = await asyncio.to_thread(self._build_index)
            return self._index

    def _build_index(self) -> UserIndex:
        with_events = set(self._state.users_with_events())
        deleted = self._state.deleted_users(self._run_users) - with_events
        return UserIndex(with_events.union(self._run_users) - deleted)

    def add_to_index(self, user_ids: Iterable[str]) -> None:
        """Add users with stored events to the index; the caller holds `database_lock`."""
        if self._index is not None:
            for user_id in user_ids:
                self._index.add(user_id)

    def invalidate(self, user_ids: Iterable[str]) -> None:
        """Drop users from the cache whose rows in the database may have changed."""
        self._n_changes += 1
        for user_id in user_ids:
            self._cache.pop(user_id, None)

    async def remove_event(self, user_id: str, event_id: str) -> Removal:
        """Remove an event of a user; see `ServiceState.remove_event`."""
        async with self._database_lock:
            try:
                result = await asyncio.to_thread(
                    self._state.remove_event,
                    user_id,
                    event_id,
                    n_run_items=len(self._run_users.history(user_id)),
                    n_run_read=n_items_read(self._run_users.preference_history(user_id)),
                )
            finally:
                self.invalidate([user_id])
            if self._index is not None and not (await self.get(user_id)).known:
                self._index.remove(user_id)
        return result

    async def delete(self, user_id: str) -> tuple[int, int]:
        """Delete a user; return the numbers of deleted events and preferences."""
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
