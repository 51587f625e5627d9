"""Cached candidate retrieval.

The cache wraps the run's retriever for `engine.py`. A repeated request of a user, for instance when
the page is reloaded, gets its candidates from memory. After a new event, preference or item, they
are retrieved again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final, final

from cachetools import LRUCache

from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.rank_fusion import Candidate
from mllm_msr.recommend.recommender import MllmMsr

_MAX_CANDIDATES: Final = 100_000  # of all users, about 25 MB


@dataclass(frozen=True, slots=True)
class _Key:
    """Inputs that the candidates of a user depend on."""

    profile: Profile
    n: int
    exclude_seen: bool
    exclude: frozenset[str]
    n_catalog_items: int


@final
class CandidateCache:
    """Retriever that caches the candidates of recent users; thread-safe.

    Args:
        model: The run.

    Attributes:
        catalog_lock: Held while the catalog is changed or searched.
    """

    def __init__(self, model: MllmMsr) -> None:
        self.catalog_lock = threading.Lock()
        self._model = model
        # One entry per user, so that outdated candidates do not take up space.
        self._cache: LRUCache[str, tuple[_Key, list[Candidate]]] = LRUCache(
            _MAX_CANDIDATES, getsizeof=lambda entry: len(entry[1]) + 1
        )

    def retrieve(
        self, profile: Profile, n: int, *, exclude_seen: bool, exclude: frozenset[str] = frozenset()
    ) -> list[Candidate]:
        """Return at most `n` candidates, best first; see `Retriever.retrieve`.

        Args:
            profile: The user.
            n: Maximum number of candidates.
            exclude_seen: Whether items of the history are excluded.
            exclude: Further items to leave out.
        """
        with self.catalog_lock:
            key = _Key(profile, n, exclude_seen, exclude, len(self._model.catalog))
            cached = self._cache.get(profile.user_id)
            if cached is not None and cached[0] == key:
                return cached[1]
            retriever = self._model.retriever
            n_failures = retriever.n_failures
            found = retriever.retrieve(profile, n + len(exclude), exclude_seen=exclude_seen)
            candidates = [one for one in found if one.item_id not in exclude][:n]
            # Neither anonymous users are cached, nor lists that lack a generator for the moment.
            if profile.user_id and retriever.n_failures == n_failures:
                self._cache[profile.user_id] = (key, candidates)
            return candidates

    def delete_user(self, user_id: str) -> None:
        """Drop the candidates of a user, including those that are being retrieved."""
        with self.catalog_lock:
            self._cache.pop(user_id, None)
