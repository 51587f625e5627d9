"""Ids of everybody whom the service knows, in order and searchable, without asking the database.

`following.py` fills it once, from the run folder and the database, and tells it of new and of
forgotten users; one service owns a database, so that nobody else changes who is known.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable
from typing import final


@final
class Directory:
    """Sorted ids; threads may share it.

    Args:
        user_ids: Who is known, in any order.

    Example:
        >>> directory = Directory(["b", "Ab", "c"])
        >>> directory.find("B", limit=1)
        (['Ab'], 2)
    """

    def __init__(self, user_ids: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._ids = sorted(set(user_ids))
        self._folded = [user_id.casefold() for user_id in self._ids]  # beside the ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, user_id: str) -> None:
        """Add a user; one who is there stays."""
        with self._lock:
            place = bisect.bisect_left(self._ids, user_id)
            if self._ids[place : place + 1] != [user_id]:
                self._ids.insert(place, user_id)
                self._folded.insert(place, user_id.casefold())

    def remove(self, user_id: str) -> None:
        """Remove a user; one who is not there is passed over."""
        with self._lock:
            place = bisect.bisect_left(self._ids, user_id)
            if self._ids[place : place + 1] == [user_id]:
                del self._ids[place], self._folded[place]

    def find(self, contains: str, *, limit: int) -> tuple[list[str], int]:
        """Ids that contain a text, case apart, and how many there are of them.

        Args:
            contains: The text; everybody where it is empty.
            limit: Most ids to give.

        Returns:
            The first ids in their order, and the number of all that match.
        """
        wanted = contains.casefold()
        with self._lock:
            if not wanted:
                return self._ids[:limit], len(self._ids)
            places = [place for place, folded in enumerate(self._folded) if wanted in folded]
            return [self._ids[place] for place in places[:limit]], len(places)
