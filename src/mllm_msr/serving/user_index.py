"""Searchable index of the ids of all known users.

`users.py` builds it once from the run folder and the database, and then adds and removes users.
Only one service uses a database, so the index remains complete without further queries.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable
from typing import final

from mllm_msr.recommend.similar_ids import similar_ids


@final
class UserIndex:
    """Searchable index of sorted user ids; thread-safe.

    Args:
        user_ids: The known users, in any order.

    Example:
        >>> index = UserIndex(["b", "Ab", "c"])
        >>> index.find("B", limit=1)
        (['Ab'], 2)
    """

    def __init__(self, user_ids: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._ids = sorted(set(user_ids))
        self._folded = [user_id.casefold() for user_id in self._ids]  # in the order of the ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, user_id: str) -> None:
        """Add a user unless the user is already in the index."""
        with self._lock:
            index = bisect.bisect_left(self._ids, user_id)
            if self._ids[index : index + 1] != [user_id]:
                self._ids.insert(index, user_id)
                self._folded.insert(index, user_id.casefold())

    def remove(self, user_id: str) -> None:
        """Remove a user, if the user is in the index."""
        with self._lock:
            index = bisect.bisect_left(self._ids, user_id)
            if self._ids[index : index + 1] == [user_id]:
                del self._ids[index], self._folded[index]

    def find(self, contains: str, *, limit: int) -> tuple[list[str], int]:
        """Find ids that contain a text, ignoring case.

        Args:
            contains: The text; an empty text matches all users.
            limit: Maximum number of ids to return.

        Returns:
            The first matching ids in sorted order, and the total number of matching ids.
        """
        wanted = contains.casefold()
        with self._lock:
            if not wanted:
                return self._ids[:limit], len(self._ids)
            matching = [index for index, folded in enumerate(self._folded) if wanted in folded]
            return [self._ids[index] for index in matching[:limit]], len(matching)

    def similar(self, user_id: str, *, limit: int = 3) -> list[str]:
        """Return the most similar known ids, see `similar_ids`."""
        with self._lock:
            return similar_ids(user_id, self._ids, limit=limit)
