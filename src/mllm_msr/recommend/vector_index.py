"""Nearest-neighbor search over item vectors, exact or with FAISS.

The catalog has an index of the summaries of its items, which the candidate generator "preference"
searches for items near a written preference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from mllm_msr.errors import MissingExtraError
from mllm_msr.models.encoders.base import Vectors

# Parameters of the HNSW graph: links per item, and candidates during construction and search.
_HNSW_NEIGHBORS: Final = 32
_HNSW_CONSTRUCTION: Final = 80
_HNSW_SEARCH: Final = 256


class VectorIndex:
    """Nearest-neighbor index over item vectors; new items can be added.

    Up to `exact_limit` items, the search is exact (14,000 items take about 10 ms). Above the limit,
    an HNSW graph (FAISS) finds nearly the same items in almost constant time.

    Args:
        width: Length of the vectors.
        exact_limit: Maximum number of items that are searched exactly.
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
        """Add items; the vectors of items that are already in the index do not change.

        Args:
            item_ids: Ids of the items.
            vectors: float32 [n_items, width], rows of length one or zero.

        Raises:
            MissingExtraError: The index grows beyond `exact_limit` and FAISS is not installed.
        """
        new = [row for row, item_id in enumerate(item_ids) if item_id not in self._rows]
        all_vectors = np.concatenate([self._vectors, vectors[new]])
        # Run the steps that can fail first, so that a failure leaves the index unchanged.
        if self._graph is not None:
            self._graph.add(vectors[new])
        elif len(all_vectors) > self._exact_limit:
            self._graph = _build_graph(all_vectors)
        self._vectors = all_vectors
        for row in new:
            self._rows[item_ids[row]] = len(self._item_ids)
            self._item_ids.append(item_ids[row])

    def nearest(self, vector: Vectors, n: int) -> tuple[list[str], Vectors]:
        """Return the `n` items with the largest inner product, largest first.

        In exact search, ties are in the order of insertion.

        Args:
            vector: float32 [width]; a zero vector has no neighbors.
            n: Maximum number of items.

        Returns:
            The ids of the items, and their inner products, float32 [n_items].
        """
        if not vector.any() or n < 1 or not len(self):
            return [], np.zeros(0, dtype=np.float32)
        if self._graph is not None:
            found, rows = (part[0] for part in self._graph.search(vector[None], min(n, len(self))))
            return [self._item_ids[row] for row in rows[rows >= 0]], found[rows >= 0]
        products = self._vectors @ vector
        best = np.argsort(-products, kind="stable")[:n]
        return [self._item_ids[row] for row in best], products[best]

    def vectors(self, item_ids: Sequence[str]) -> Vectors:
        """Return item vectors, float32 [n_items, width]; zero rows for unknown items."""
        found = np.zeros((len(item_ids), self._vectors.shape[1]), dtype=np.float32)
        for index, item_id in enumerate(item_ids):
            if item_id in self._rows:
                found[index] = self._vectors[self._rows[item_id]]
        return found


def _build_graph(vectors: Vectors) -> Any:
    try:
        import faiss  # noqa: PLC0415 - an extra, and only large catalogs need it
    except ImportError as error:
        raise MissingExtraError("faiss", "serve") from error
    graph = faiss.IndexHNSWFlat(vectors.shape[1], _HNSW_NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = _HNSW_CONSTRUCTION
    graph.hnsw.efSearch = _HNSW_SEARCH
    graph.add(vectors)
    return graph
