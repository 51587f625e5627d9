"""Reciprocal rank fusion and diversification of ranked items.

Fusion is used twice: `retrieval.py` combines the rankings of the candidate generators, and
`recommender.py` combines the result with the model's ranking and diversifies it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from mllm_msr.models.encoders.base import Vectors

# The best value over many tasks in Cormack, Clarke and Buettcher (2009), "Reciprocal rank fusion".
_RANK_CONSTANT: Final = 60


@dataclass(frozen=True, slots=True)
class Candidate:
    """Item proposed by at least one candidate generator.

    Attributes:
        item_id: The item.
        relevance: Fused reciprocal ranks; only comparable within one list.
        generators: Names of the generators that proposed it, largest contribution first.
    """

    item_id: str
    relevance: float
    generators: tuple[str, ...]


def fuse(
    rankings: Mapping[str, Sequence[str]],
    *,
    exclude: frozenset[str] = frozenset(),
    weights: Mapping[str, float] = MappingProxyType({}),
    n: int | None = None,
) -> list[Candidate]:
    """Combine rankings by reciprocal rank fusion.

    The relevance of an item is the sum of weight / (60 + rank) over the generators that rank it.

    Args:
        rankings: Item ids by generator, best first. Ranks start at 1 and skip excluded items.
        exclude: Items to leave out.
        weights: Weight of each generator; 1 by default.
        n: Maximum number of candidates; `None` for all.

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
