"""Combination of what the candidate generators propose, and diversification of ranked items.

`retrieval.py` collects the proposals of all generators for a user in a `Pool`. Its relevance is
linear in the reciprocal ranks and the standardized scores of the generators. With fixed weights
only the ranks count, which is reciprocal rank fusion; `fit_lists.py` fits both kinds of
weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

from mllm_msr.models.encoders.base import Vectors

Floats = npt.NDArray[np.float64]

# The best value over many tasks in Cormack, Clarke and Buettcher (2009), "Reciprocal rank fusion".
RANK_CONSTANT: Final = 60


class Proposals(NamedTuple):
    """Items that a candidate generator proposes to a user.

    Attributes:
        item_ids: The items, best first.
        scores: Their scores on any scale, not increasing; float [n_items].
    """

    item_ids: Sequence[str]
    scores: npt.NDArray[np.floating]


class Weight(NamedTuple):
    """Weights of a candidate generator, not negative.

    Attributes:
        rank: Weight of the reciprocal rank, 1 / (60 + rank).
        score: Weight of the standardized score.
    """

    rank: float = 1.0
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """Item proposed by at least one candidate generator.

    Attributes:
        item_id: The item.
        relevance: Weighted sum of reciprocal ranks and scores; only comparable within one list.
        generators: Names of the generators that proposed it, largest contribution first.
    """

    item_id: str
    relevance: float
    generators: tuple[str, ...]


@final
class Pool:
    """Proposals of all candidate generators for one user.

    Args:
        proposals: Proposals by generator. Ranks start at 1 and skip excluded items.
        exclude: Items to leave out.
        depth: Number of proposals of a generator over which its scores are standardized: the
            lowest of them becomes 0 and their deviation 1.

    Attributes:
        names: The generators, in order.
        item_ids: The proposed items, sorted.
        features: Reciprocal rank and standardized score of each item for each generator, 0 if it
            is not proposed; float64 [n_items, n_generators, 2].

    Example:
        >>> one = Proposals(["x", "y"], np.array([2.0, 1.0]))
        >>> two = Proposals(["y", "z"], np.array([9.0, 8.0]))
        >>> [c.item_id for c in Pool({"one": one, "two": two}).candidates()]
        ['y', 'x', 'z']
    """

    def __init__(
        self,
        proposals: Mapping[str, Proposals],
        *,
        exclude: frozenset[str] = frozenset(),
        depth: int = 200,
    ) -> None:
        self.names = tuple(proposals)
        ranked: list[tuple[list[str], Floats]] = []
        for item_ids, scores in proposals.values():
            rows = [row for row, item_id in enumerate(item_ids) if item_id not in exclude]
            found = np.asarray(scores, dtype=np.float64)[rows]
            ranked.append(([item_ids[row] for row in rows], _standardize(found, depth)))
        self.item_ids = sorted({item_id for item_ids, _ in ranked for item_id in item_ids})
        rows_of = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self.features: Floats = np.zeros((len(self.item_ids), len(ranked), 2))
        for column, (item_ids, scores) in enumerate(ranked):
            rows = [rows_of[item_id] for item_id in item_ids]
            self.features[rows, column, 0] = reciprocal_ranks(len(rows))
            self.features[rows, column, 1] = scores

    def weights(self, weights: Mapping[str, Weight]) -> Floats:
        """Return the weights of the generators by column, [n_generators, 2]; 1 and 0 by default."""
        return np.array([weights.get(name, Weight()) for name in self.names]).reshape(-1, 2)

    def candidates(
        self, weights: Mapping[str, Weight] | None = None, n: int | None = None
    ) -> list[Candidate]:
        """Return the candidates in descending order of relevance.

        Args:
            weights: Weights by generator; by default only the rank counts, with weight 1.
            n: Maximum number of candidates; `None` for all.

        Returns:
            The candidates. Equal ones are in the order of unweighted rank fusion, then by id.
        """
        by_generator = (self.features * self.weights(weights or {})).sum(axis=2)
        relevance = by_generator.sum(axis=1)
        best = np.lexsort((-self.features[:, :, 0].sum(axis=1), -relevance))[:n]
        return [
            Candidate(
                self.item_ids[row], float(relevance[row]), self._generators(row, by_generator)
            )
            for row in best
        ]

    def _generators(self, row: int, contributions: Floats) -> tuple[str, ...]:
        proposed = self.features[row, :, 0] > 0
        found = [
            (-contributions[row, column], name)
            for column, name in enumerate(self.names)
            if proposed[column]
        ]
        return tuple(name for _, name in sorted(found))


def reciprocal_ranks(n: int) -> Floats:
    """Return the reciprocal ranks of `n` items, best first."""
    return 1.0 / (RANK_CONSTANT + np.arange(1, n + 1, dtype=np.float64))


def with_reciprocal_ranks(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates whose relevance is their reciprocal rank, for rank fusion with a model."""
    ranks = reciprocal_ranks(len(candidates))
    return [
        replace(one, relevance=float(rank)) for one, rank in zip(candidates, ranks, strict=True)
    ]


def _standardize(scores: Floats, depth: int) -> Floats:
    """Return scores with the lowest of the first `depth` at 0 and their deviation at 1."""
    first = scores[:depth]
    if not len(first):
        return scores
    spread = float(first.std()) or 1.0
    above: Floats = np.maximum(scores - first[-1], 0.0)
    return above / spread


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
        k: Maximum number of items to select.
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
