"""Candidates out of the whole catalogue, for the recommender to rank.

The paper ranks 21 given items (section "Experimental Setup"). Here several generators propose items
of the whole catalogue, their rankings are fused by reciprocal rank, and what the user has met is
left out; `recommend/recommender.py` then spends its model calls on the first of them. `diversify` trades a
little relevance for variety at the very end.
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

from mllm_msr.errors import MissingExtraError
from mllm_msr.interfaces import CatalogScorer, Recommender
from mllm_msr.models.text_encoders import TextEncoder, Vectors
from mllm_msr.tables import INTERACTIONS

# Cormack, Clarke and Buettcher (2009), "Reciprocal rank fusion": 60 was best over many tasks.
_RANK_CONSTANT: Final = 60

_NEIGHBOURS: Final = 32


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of a user at one moment.

    Attributes:
        user_id: The user; never part of a prompt.
        history: Ids of the items met, oldest first.
        preference: The newest written preference, blank where there is none.
    """

    user_id: str
    history: tuple[str, ...] = ()
    preference: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposed item.

    Attributes:
        item_id: The item.
        relevance: Fused reciprocal ranks; only its order means something.
        generators: Names of the generators that proposed it, the most convinced one first.
    """

    item_id: str
    relevance: float
    generators: tuple[str, ...]


class CandidateGenerator(Protocol):
    """One opinion on which items a user may want."""

    def propose(self, profile: Profile, n: int) -> Sequence[str]:
        """The best `n` items or fewer, best first; empty where it has nothing to go by."""


class VectorIndex:
    """Items by their vectors, the nearest ones to be asked for; grows with new items.

    Up to `exact_limit` items are compared one by one (14,000 take about 10 ms); beyond, a graph of
    neighbours (HNSW of FAISS) finds nearly the same ones in a time that hardly grows.

    Args:
        width: Length of the vectors.
        exact_limit: Most items that are compared one by one.

    Raises:
        MissingExtraError: On growing beyond `exact_limit`: FAISS is not installed.
    """

    def __init__(self, width: int, *, exact_limit: int = 50_000) -> None:
        self._item_ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._vectors: Vectors = np.zeros((0, width), dtype=np.float32)
        self._exact_limit = exact_limit
        self._graph: Any = None

    def __len__(self) -> int:
        return len(self._item_ids)

    def add(self, item_ids: Sequence[str], vectors: Vectors) -> None:
        """Add items that the index does not hold; those that it holds keep their vectors.

        Args:
            item_ids: Their ids.
            vectors: float32 [n_items, width], rows of length one or zero.
        """
        new = [row for row, item_id in enumerate(item_ids) if item_id not in self._rows]
        together = np.concatenate([self._vectors, vectors[new]])
        # First what may fail, so that afterwards either all of it knows the items or nothing.
        if self._graph is not None:
            self._graph.add(vectors[new])
        elif len(together) > self._exact_limit:
            self._graph = _graph(together)
        self._vectors = together
        for row in new:
            self._rows[item_ids[row]] = len(self._item_ids)
            self._item_ids.append(item_ids[row])

    def nearest(self, vector: Vectors, n: int) -> list[str]:
        """Ids of the items with the largest inner product, largest first; ties by age in the index.

        Args:
            vector: float32 [width]. A zero vector is near to nothing.
            n: How many at most.
        """
        if not vector.any() or n < 1 or not len(self):
            return []
        if self._graph is not None:
            _, rows = self._graph.search(vector[None], min(n, len(self)))
            return [self._item_ids[row] for row in rows[0] if row >= 0]
        products = self._vectors @ vector
        best = np.argsort(-products, kind="stable")[:n]
        return [self._item_ids[row] for row in best]

    def vectors(self, item_ids: Sequence[str]) -> Vectors:
        """Vectors of known items, float32 [n_items, width]; zero rows for unknown ones."""
        found = np.zeros((len(item_ids), self._vectors.shape[1]), dtype=np.float32)
        for place, item_id in enumerate(item_ids):
            if item_id in self._rows:
                found[place] = self._vectors[self._rows[item_id]]
        return found


@final
class PreferenceSource:
    """Items whose summaries are most like the user's written preference.

    Args:
        encoder: Encodes preferences as it encoded the summaries.
        index: The items' summaries.
    """

    def __init__(self, encoder: TextEncoder, index: VectorIndex) -> None:
        self._encoder = encoder
        self._index = index

    def propose(self, profile: Profile, n: int) -> Sequence[str]:
        """See `CandidateGenerator.propose`; nothing for a user without a preference."""
        if not profile.preference.strip():
            return []
        return self._index.nearest(self._encoder.encode([profile.preference])[0], n)


@final
class CollaborativeSource:
    """Items that a fitted recommender puts first.

    Args:
        recommender: Any fitted one.
        item_ids: Items that it may propose.
    """

    def __init__(self, recommender: Recommender, item_ids: Sequence[str]) -> None:
        self._recommender = recommender
        self._items = pl.DataFrame({"item_id": sorted(item_ids)})
        self._columns: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        if isinstance(recommender, CatalogScorer):
            places = {item_id: place for place, item_id in enumerate(recommender.catalog)}
            known = [item_id for item_id in self._items["item_id"] if item_id in places]
            self._columns = np.array([places[item_id] for item_id in known], dtype=np.int64)
            self._items = pl.DataFrame({"item_id": known})

    def propose(self, profile: Profile, n: int) -> Sequence[str]:
        """See `CandidateGenerator.propose`; nothing for a user without a history."""
        if not profile.history:
            return []
        best = np.argsort(-self._scores(profile), kind="stable")[:n]  # ties by id
        return self._items["item_id"].gather(best).to_list()

    def _scores(self, profile: Profile) -> npt.NDArray[np.floating[Any]]:
        """Scores of the items, in their order."""
        history = history_frame(profile)
        user = pl.DataFrame(
            {"user_id": [profile.user_id], "position": [len(profile.history)]},
            schema={"user_id": pl.String, "position": pl.Int32},
        )
        scores: npt.NDArray[np.floating[Any]]
        if isinstance(self._recommender, CatalogScorer):
            _, rows = next(iter(self._recommender.score_catalog(user, history)))
            scores = rows[0, self._columns]
        else:
            asked = user.join(self._items, how="cross")
            scores = self._recommender.score(asked, history)["score"].to_numpy()
        return scores


@final
class PopularSource:
    """What many users chose lately; the same for everyone, and all there is for a new user.

    Args:
        interactions: `tables.INTERACTIONS` that may be counted.
        recent_share: Share of the interactions that counts, the latest, in (0, 1].
    """

    def __init__(self, interactions: pl.DataFrame, *, recent_share: float = 0.2) -> None:
        newest = interactions.sort("timestamp", descending=True)
        counted = newest.head(math.ceil(recent_share * newest.height))
        by_count = (
            counted.group_by("item_id").len().sort("len", "item_id", descending=[True, False])
        )
        self._item_ids: list[str] = by_count["item_id"].to_list()

    def propose(self, profile: Profile, n: int) -> Sequence[str]:
        """See `CandidateGenerator.propose`; what the user has met does not take others' places."""
        seen = set(profile.history)
        return [item_id for item_id in self._item_ids if item_id not in seen][:n]


class Retriever:
    """Asks every generator and fuses what they say.

    Args:
        generators: The generators by name.
        depth: Items asked of each generator, besides those that the user has met.
        weights: How much a generator's vote counts, 1 where nothing is said.

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
        """The best `n` candidates or fewer, best first.

        Args:
            profile: The user.
            n: How many at most.
            exclude_seen: Whether items of the history are left out.
        """
        depth = max(self._depth, n) + len(profile.history)
        rankings = {
            name: generator.propose(profile, depth) for name, generator in self.generators.items()
        }
        left_out = frozenset(profile.history if exclude_seen else ())
        return fuse(rankings, exclude=left_out, weights=self._weights, n=n)


def fuse(
    rankings: Mapping[str, Sequence[str]],
    *,
    exclude: frozenset[str] = frozenset(),
    weights: Mapping[str, float] = MappingProxyType({}),
    n: int | None = None,
) -> list[Candidate]:
    """Fuse rankings: an item's relevance is the sum of weight / (60 + rank) over the generators.

    Args:
        rankings: Item ids by generator, best first; ranks count from one, excluded items not.
        exclude: Items that are left out.
        weights: Of the generators, 1 where nothing is said.
        n: How many at most; all where it is `None`.

    Returns:
        The other items, the most relevant first, ties by id.

    Example:
        >>> [c.item_id for c in fuse({"a": ["x", "y"], "b": ["y", "z"]})]
        ['y', 'x', 'z']
    """
    totals: dict[str, float] = {}
    votes: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for name, ranking in rankings.items():
        kept = (item_id for item_id in ranking if item_id not in exclude)
        weight = weights.get(name, 1.0)
        for rank, item_id in enumerate(kept, start=1):
            share = weight / (_RANK_CONSTANT + rank)
            totals[item_id] = totals.get(item_id, 0.0) + share
            votes[item_id].append((-share, name))
    best = sorted(totals, key=lambda item_id: (-totals[item_id], item_id))
    return [
        Candidate(item_id, totals[item_id], tuple(name for _, name in sorted(votes[item_id])))
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
    """Maximal marginal relevance (Carbonell and Goldstein 1998): relevant, yet not all the same.

    Args:
        item_ids: The items.
        relevance: Their relevance, any scale; it is brought to [0, 1].
        vectors: Gives items' vectors, whose inner product is their likeness.
        k: How many to choose at most.
        diversity: Weight of not being like those already chosen, in [0, 1]; 0 sorts by relevance
            alone (ties in the order given).

    Returns:
        The chosen items in the order of their choice.
    """
    order = sorted(range(len(item_ids)), key=lambda place: -relevance[place])
    if diversity <= 0.0 or len(order) < 2:
        return [item_ids[place] for place in order[:k]]
    low, high = min(relevance), max(relevance)
    scale = (high - low) or 1.0
    worth = np.array([(relevance[place] - low) / scale for place in order])
    rows = vectors([item_ids[place] for place in order])  # [n_items, width]
    likeness = np.zeros(len(order))
    chosen: list[int] = []
    free = np.ones(len(order), dtype=bool)
    while len(chosen) < min(k, len(order)):
        value = (1.0 - diversity) * worth - diversity * likeness
        pick = int(np.argmax(np.where(free, value, -np.inf)))
        chosen.append(pick)
        free[pick] = False
        likeness = np.maximum(likeness, rows @ rows[pick])
    return [item_ids[order[pick]] for pick in chosen]


def history_frame(profile: Profile) -> pl.DataFrame:
    """A profile's history as `tables.INTERACTIONS`, with its order as time."""
    n_items = len(profile.history)
    return pl.DataFrame(
        {
            "user_id": [profile.user_id] * n_items,
            "item_id": list(profile.history),
            "timestamp": range(n_items),
            "position": range(n_items),
        },
        schema=dict(INTERACTIONS),
    )


def _graph(vectors: Vectors) -> Any:
    try:
        import faiss  # noqa: PLC0415 - an extra, and only large catalogues need it
    except ImportError as error:
        raise MissingExtraError("faiss", "serve") from error
    graph = faiss.IndexHNSWFlat(vectors.shape[1], _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 80
    graph.hnsw.efSearch = 256
    graph.add(vectors)
    return graph
