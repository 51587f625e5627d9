"""Retrieve candidates from the full catalog, for the ranker to score.

The paper ranks 21 given items (section "Experimental Setup"). Here several candidate generators
propose items of the full catalog, `fuse` combines their rankings by reciprocal rank fusion, and
items that the user has interacted with are excluded. `recommend/recommender.py` scores the first
candidates with the ranker and applies `diversify` at the end.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol, final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.interfaces import CatalogScorer, Recommender
from mllm_msr.models.encoders.base import TextEncoder, Vectors
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.vector_index import VectorIndex

# Cormack, Clarke and Buettcher (2009), "Reciprocal rank fusion": 60 was best over many tasks.
_RANK_CONSTANT: Final = 60


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item proposed by at least one candidate generator.

    Attributes:
        item_id: The item.
        relevance: Fused reciprocal ranks; only comparable within one list.
        generators: Names of the generators that proposed it, largest contribution first.
    """

    item_id: str
    relevance: float
    generators: tuple[str, ...]


class CandidateGenerator(Protocol):
    """A method that proposes items for a user."""

    def propose(self, profile: Profile, n: int) -> Sequence[str]:
        """Return at most `n` item ids, best first; none if the profile lacks what it needs."""


@final
class PreferenceGenerator:
    """Candidate generator: items whose summaries are most similar to the user's preference.

    Args:
        encoder: Encoder of preferences; the same that encoded the summaries.
        index: Vectors of the summaries.
    """

    def __init__(self, encoder: TextEncoder, index: VectorIndex) -> None:
        self._encoder = encoder
        self._index = index

    def propose(self, profile: Profile, n: int) -> Sequence[str]:
        """Return the items nearest to the preference; none without a preference."""
        if not profile.preference.strip():
            return []
        return self._index.nearest(self._encoder.encode([profile.preference])[0], n)


@final
class CollaborativeGenerator:
    """Candidate generator: the highest-scored items of a fitted recommender.

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

    def propose(self, profile: Profile, n: int) -> Sequence[str]:
        """Return the highest-scored items, ties by id; none without a history."""
        if not profile.history:
            return []
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
            scores = self._recommender.score(candidates, history)["score"].to_numpy()
        best = np.argsort(-scores, kind="stable")[:n]
        return self._items["item_id"].gather(best).to_list()


@final
class RecentPopularityGenerator:
    """Candidate generator: the items with the most recent interactions, the same for all users.

    It is the only generator that proposes items to a new user.

    Args:
        interactions: `tables.INTERACTIONS` that may be counted.
        recent_share: Share of the interactions that counts, the latest ones, in (0, 1].
    """

    def __init__(self, interactions: pl.DataFrame, *, recent_share: float = 0.2) -> None:
        latest_first = interactions.sort("timestamp", descending=True)
        recent = latest_first.head(math.ceil(recent_share * latest_first.height))
        by_count = recent.group_by("item_id").len().sort("len", "item_id", descending=[True, False])
        self._item_ids: list[str] = by_count["item_id"].to_list()

    def propose(self, profile: Profile, n: int) -> Sequence[str]:
        """Return the most popular items that are not in the history."""
        seen = set(profile.history)
        return [item_id for item_id in self._item_ids if item_id not in seen][:n]


class Retriever:
    """Candidate generators and the fusion of their rankings.

    Args:
        generators: The generators by name.
        depth: Items that each generator is asked for, in addition to the length of the history.
        weights: Weight of a generator in the fusion; 1 if not given.

    Attributes:
        generators: As given.
    """

    def __init__(
        self,
        generators: Mapping[str, CandidateGenerator],
        *,
        depth: int = 200,
        weights: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.generators = dict(generators)
        self._depth = depth
        self._weights = weights

    def retrieve(self, profile: Profile, n: int, *, exclude_seen: bool = True) -> list[Candidate]:
        """Return at most `n` candidates, best first.

        Args:
            profile: The user.
            n: Largest number of candidates.
            exclude_seen: Whether items of the history are excluded.
        """
        depth = max(self._depth, n) + len(profile.history)
        rankings = {
            name: generator.propose(profile, depth) for name, generator in self.generators.items()
        }
        excluded = frozenset(profile.history if exclude_seen else ())
        return fuse(rankings, exclude=excluded, weights=self._weights, n=n)


def fuse(
    rankings: Mapping[str, Sequence[str]],
    *,
    exclude: frozenset[str] = frozenset(),
    weights: Mapping[str, float] = MappingProxyType({}),
    n: int | None = None,
) -> list[Candidate]:
    """Combine rankings by reciprocal rank fusion.

    An item's relevance is the sum of weight / (60 + rank) over the generators that rank it.

    Args:
        rankings: Item ids by generator, best first. Ranks start at 1 and skip excluded items.
        exclude: Items that are left out.
        weights: Weight of each generator; 1 if not given.
        n: Largest number of candidates; `None` for all.

    Returns:
        Candidates in descending order of relevance, ties by id.

    Example:
        >>> [c.item_id for c in fuse({"a": ["x", "y"], "b": ["y", "z"]})]
        ['y', 'x', 'z']
    """
    relevance: defaultdict[str, float] = defaultdict(float)
    contributions: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for name, ranking in rankings.items():
        included = (item_id for item_id in ranking if item_id not in exclude)
        weight = weights.get(name, 1.0)
        for rank, item_id in enumerate(included, start=1):
            contribution = weight / (_RANK_CONSTANT + rank)
            relevance[item_id] += contribution
            contributions[item_id].append((-contribution, name))
    best = sorted(relevance, key=lambda item_id: (-relevance[item_id], item_id))
    return [
        Candidate(
            item_id,
            relevance[item_id],
            tuple(name for _, name in sorted(contributions[item_id])),
        )
        for item_id in best[:n]
    ]


def diversify(
    item_ids: Sequence[str],
    relevance: Sequence[float],
    *,
    vectors: Callable[[Sequence[str]], Vectors],
    k: int,
    diversity: float,
) -> list[str]:
    """Select items by maximal marginal relevance (Carbonell and Goldstein, 1998).

    Args:
        item_ids: The items.
        relevance: Their relevance on any scale; it is normalized to [0, 1].
        vectors: Function that returns item vectors; their inner product is the similarity.
        k: Largest number of items to select.
        diversity: Weight of dissimilarity to the items selected so far, in [0, 1]. 0 sorts by
            relevance alone, ties in the order given.

    Returns:
        The selected items in the order of selection.
    """
    order = sorted(range(len(item_ids)), key=lambda index: -relevance[index])
    if diversity <= 0.0 or len(order) < 2:
        return [item_ids[index] for index in order[:k]]
    low, high = min(relevance), max(relevance)
    scale = (high - low) or 1.0
    normalized = np.array([(relevance[index] - low) / scale for index in order])
    rows = vectors([item_ids[index] for index in order])  # [n_items, width]
    similarity = np.zeros(len(order))  # to the most similar selected item
    available = np.ones(len(order), dtype=bool)
    selected: list[int] = []
    while len(selected) < min(k, len(order)):
        value = (1.0 - diversity) * normalized - diversity * similarity
        pick = int(np.argmax(np.where(available, value, -np.inf)))
        selected.append(pick)
        available[pick] = False
        similarity = np.maximum(similarity, rows @ rows[pick])
    return [item_ids[order[pick]] for pick in selected]
