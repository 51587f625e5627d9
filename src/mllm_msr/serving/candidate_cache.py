"""Candidates for users of the service: found once for each state of a user, until an item comes.

Range `engine.py` and the run's retriever. A list asked for again, as by a page that is opened
twice, finds its candidates in memory; an event, a new preference or a new item makes them anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, final

from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.recommend.retrieval import Candidate, Profile

# Users whose candidates are remembered, those asked for last: some 10 kB each.
_USERS: Final = 2000


@dataclass(frozen=True, slots=True)
class _Asked:
    profile: Profile
    n: int
    exclude_seen: bool


@final
class Retrieval:
    """The retriever of a run, whose catalogue grows; threads may share it.

    Args:
        model: The run.

    Attributes:
        changing: Held while the catalogue is changed.
    """

    def __init__(self, model: MllmMsr) -> None:
        self.changing = threading.Lock()
        self._model = model
        self._found: OrderedDict[str, tuple[_Asked, int, list[Candidate]]] = OrderedDict()

    def candidates(self, profile: Profile, n: int, *, exclude_seen: bool) -> list[Candidate]:
        """The best `n` candidates or fewer, best first; see `Retriever.retrieve`."""
        asked = _Asked(profile, n, exclude_seen)
        with self.changing:
            n_items = len(self._model.catalogue)
            kept = self._found.get(profile.user_id)
            if kept is not None and kept[:2] == (asked, n_items):
                self._found.move_to_end(profile.user_id)
                return kept[2]
            found = self._model.retriever.retrieve(profile, n, exclude_seen=exclude_seen)
            if profile.user_id:  # else somebody of whom nothing is kept
                self._found[profile.user_id] = (asked, n_items, found)
                self._found.move_to_end(profile.user_id)
                while len(self._found) > _USERS:
                    self._found.popitem(last=False)
            return found

    def forget(self, user_id: str) -> None:
        """Forget a user's candidates; waits for those that are being looked for."""
        with self.changing:
            self._found.pop(user_id, None)
