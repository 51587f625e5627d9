"""Retrieval of candidates from the full catalog for the ranker.

The paper ranks 21 given items (section "Experimental Setup"). Here several candidate generators
propose items of the full catalog, `rank_fusion.py` combines their proposals, and items that the
user has interacted with are excluded. `recommender.py` scores the best candidates with the ranker.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, Protocol, final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.errors import BackendError, DamagedFileError, DataError, TrainingError
from mllm_msr.interfaces import CatalogScorer, Recommender
from mllm_msr.models.encoders.base import TextEncoder
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.rank_fusion import Candidate, Pool, Proposals, Weight
from mllm_msr.recommend.vector_index import VectorIndex

logger = logging.getLogger(__name__)

# Failures of one generator that leave lists to the others. A wrong setting, a missing package or a
# missing stage is for the user to correct, and any other exception is a fault in the code.
GENERATOR_FAILURES: Final = (BackendError, DamagedFileError, DataError, TrainingError, OSError)

_NOTHING: Proposals = Proposals((), np.zeros(0))


class CandidateGenerator(Protocol):
    """Generator of candidate items for a user."""

    def propose(self, profile: Profile, n: int) -> Proposals:
        """Return at most `n` items with scores; none if the profile lacks the required data."""


@final
class PreferenceGenerator:
    """Candidate generator: items whose summaries are most similar to the user's preference.

    Args:
        encoder: Encoder of preferences, which also encoded the summaries.
        index: Vectors of the summaries.
        n_items: Number of latest items whose summaries stand for a missing preference; 0 for none.
    """

    def __init__(self, encoder: TextEncoder, index: VectorIndex, *, n_items: int = 0) -> None:
        self._encoder = encoder
        self._index = index
        self._n_items = n_items

    def propose(self, profile: Profile, n: int) -> Proposals:
        """Return the items nearest to the preference; none without a preference."""
        if profile.preference.strip():
            vector = self._encoder.encode([profile.preference])[0]
        else:
            latest = profile.history[-self._n_items :] if self._n_items else ()
            vector = self._index.vectors(latest).sum(axis=0)
        return Proposals(*self._index.nearest(vector, n))


@final
class CollaborativeGenerator:
    """Candidate generator: the highest-scored items of a fitted recommender.

    Items without a finite score are not proposed, as they are not in the top lists of the
    evaluation: any rank among the proposals would be a merit that nothing has measured. Beside the
    proposals of other generators, they have the value of items that this one does not know.

    Args:
        recommender: Any fitted recommender.
        item_ids: Items that it may propose.
    """

    def __init__(self, recommender: Recommender, item_ids: Sequence[str]) -> None:
        self._recommender = recommender
        self._items = pl.DataFrame({"item_id": sorted(item_ids)})
        self._columns: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        if isinstance(recommender, CatalogScorer):
            columns = {item_id: column for column, item_id in enumerate(recommender.catalog)}
            known = [item_id for item_id in self._items["item_id"] if item_id in columns]
            self._columns = np.array([columns[item_id] for item_id in known], dtype=np.int64)
            self._items = pl.DataFrame({"item_id": known})

    def propose(self, profile: Profile, n: int) -> Proposals:
        """Return the highest-scored items, ties by id; none without a history or a score."""
        if not profile.history:
            return _NOTHING
        if profile.was_deleted:  # recommenders may have read preferences under the id
            profile = replace(profile, user_id="")
        history = profile.history_frame()
        user = pl.DataFrame(
            {"user_id": [profile.user_id], "position": [len(profile.history)]},
            schema={"user_id": pl.String, "position": pl.Int32},
        )
        scores: npt.NDArray[np.floating[Any]]
        if isinstance(self._recommender, CatalogScorer):
            _, rows = next(iter(self._recommender.score_catalog(user, history)))
            scores = rows[0, self._columns]
        else:
            candidates = user.join(self._items, how="cross")
            found = self._recommender.score(candidates, history)["score"]
            scores = found.cast(pl.Float64).to_numpy()  # NaN for null
        scored = np.flatnonzero(np.isfinite(scores))
        best = scored[np.argsort(-scores[scored], kind="stable")[:n]]
        return Proposals(self._items["item_id"].gather(best).to_list(), scores[best])


@final
class RecentPopularityGenerator:
    """Candidate generator: the items with the most recent interactions, the same for all users.

    It is the only generator that proposes items to a new user.

    Args:
        interactions: `tables.INTERACTIONS` that may be counted.
        recent_share: Fraction of the latest interactions that is counted, in (0, 1].
    """

    def __init__(self, interactions: pl.DataFrame, *, recent_share: float = 0.2) -> None:
        latest_first = interactions.sort("timestamp", descending=True)
        recent = latest_first.head(math.ceil(recent_share * latest_first.height))
        by_count = recent.group_by("item_id").len().sort("len", "item_id", descending=[True, False])
        self._item_ids: list[str] = by_count["item_id"].to_list()
        self._scores = np.log(by_count["len"].to_numpy())

    def propose(self, profile: Profile, n: int) -> Proposals:
        """Return the most popular items that are not in the history; scores are log counts."""
        seen = set(profile.history)
        rows = [row for row, item_id in enumerate(self._item_ids) if item_id not in seen][:n]
        return Proposals([self._item_ids[row] for row in rows], self._scores[rows])


class Retriever:
    """Retriever that combines the proposals of several candidate generators.

    Args:
        generators: The generators by name.
        depth: Number of items requested from each generator, in addition to the length of the
            history.
        weights: Weights of the generators; by default only the rank counts, with weight 1.
        hidden: Items that are never candidates; the caller may change the set later.

    Attributes:
        hidden: As given.
        generators: The generators by name.
        weights: As given.
        n_failures: Number of failures of generators in `retrieve`.
    """

    def __init__(
        self,
        generators: Mapping[str, CandidateGenerator],
        *,
        depth: int = 200,
        weights: Mapping[str, Weight] = MappingProxyType({}),
        hidden: Set[str] = frozenset(),
    ) -> None:
        self.hidden = hidden
        self.generators = dict(generators)
        self.weights = weights
        self.n_failures = 0
        self._depth = depth
        self._failed: set[str] = set()

    def pool(self, profile: Profile) -> Pool:
        """Return the proposals of all generators, without items of the history.

        Raises:
            MllmMsrError: A generator fails.
        """
        n_requested = self._n_requested(profile)
        proposals = {
            name: generator.propose(profile, n_requested)
            for name, generator in self.generators.items()
        }
        return self._pool(profile, proposals)

    def retrieve(self, profile: Profile, n: int, *, exclude_seen: bool = True) -> list[Candidate]:
        """Return at most `n` candidates, best first.

        A generator that fails is left out, with a warning at the first time.

        Args:
            profile: The user.
            n: Maximum number of candidates.
            exclude_seen: Whether items of the history are excluded.

        Raises:
            BackendError: All generators fail.
        """
        n_requested = self._n_requested(profile, n)
        proposals: dict[str, Proposals] = {}
        failures: dict[str, Exception] = {}
        for name, generator in self.generators.items():
            try:
                proposals[name] = generator.propose(profile, n_requested)
            except GENERATOR_FAILURES as error:
                failures[name] = error
                self.n_failures += 1
                if name not in self._failed:
                    self._failed.add(name)
                    warn_of_failure(name, error)
        require_one(proposals, failures)
        pool = self._pool(profile, proposals, exclude_seen=exclude_seen)
        return pool.candidates(self.weights, n)

    def _n_requested(self, profile: Profile, n: int = 0) -> int:
        return max(self._depth, n) + len(profile.history) + len(self.hidden)

    def _pool(
        self, profile: Profile, proposals: Mapping[str, Proposals], *, exclude_seen: bool = True
    ) -> Pool:
        excluded = frozenset(profile.history if exclude_seen else ()) | self.hidden
        return Pool(proposals, exclude=excluded, depth=self._depth)


def warn_of_failure(name: str, error: Exception) -> None:
    """Log that a candidate generator is left out, and why."""
    logger.warning("The candidate generator %s failed and is left out of lists: %s", name, error)


def require_one(working: Collection[str], failures: Mapping[str, Exception]) -> None:
    """Check that a candidate generator works.

    Args:
        working: Names of the generators that work.
        failures: Failures of the others by name.

    Raises:
        BackendError: None works, although there are some; the message has the causes.
    """
    if failures and not working:
        causes = " ".join(f"{name}: {error}" for name, error in failures.items())
        raise BackendError(
            f"All candidate generators failed, so there are no candidates for a list. {causes} "
            "Correct the causes, or set retrieve.generators to others, such as [recent]."
        )
