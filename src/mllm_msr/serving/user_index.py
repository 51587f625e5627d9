"""Searchable index of the ids of all known users.

`users.py` builds it once from the run folder and the database, and then adds and removes users.
Only one service uses a database, so the index remains complete without further queries.
"""

from __future__ import annotations

import bisect
import difflib
import itertools
import threading
from collections.abc import Iterable
from typing import Final, final

_N_COMPARED: Final = 2_000  # ids that are compared in a search for similar ones


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
        """Return the ids that are most similar to a text, those with the same beginning first.

        Only the ids next to it in sorted order are compared, so that the search takes milliseconds
        whatever the number of users.

        Args:
            user_id: The text.
            limit: Maximum number of ids to return.

        Example:
            >>> UserIndex(["user1", "user2", "zoe"]).similar("usre1", limit=1)
            ['user1']
        """
        with self._lock:
            middle = bisect.bisect_left(self._ids, user_id)
            start = max(0, min(middle - _N_COMPARED // 2, len(self._ids) - _N_COMPARED))
            near = self._ids[start : start + _N_COMPARED]
        folded = {one.casefold(): one for one in near}
        wanted = user_id.casefold()
        matches = difflib.get_close_matches(wanted, folded, n=10 * limit)
        ratio = difflib.SequenceMatcher(b=wanted)

        def order(match: str) -> tuple[int, float, str]:
            ratio.set_seq1(match)
            return -_common_length(match, wanted), -ratio.ratio(), match

        matches.sort(key=order)
        return [folded[match] for match in matches[:limit]]


def _common_length(first: str, second: str) -> int:
    """Return the length of the common beginning of two texts."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
