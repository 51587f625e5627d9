"""Item-kNN: the score of an item is its similarity to the user's latest items.

Two items are similar if the same users interacted with both: the cosine of their columns in the
user-item matrix, shrunk for pairs with few common users (Sarwar et al. 2001; Deshpande and
Karypis 2004). Older items of a history have lower weights. Items without similarity to the history
are ranked by popularity, and so are all items for users without a history; items without
interactions score 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from mllm_msr.baselines._shared.array_baseline import ArrayBaseline
from mllm_msr.baselines._shared.catalog import CHUNK, catalog_of
from mllm_msr.baselines._shared.sparse_matrices import (
    history_matrix,
    in_chunks,
    interaction_matrix,
    pack_matrix,
    packed_names,
    unpack_matrix,
)
from mllm_msr.baselines._shared.state import State
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import TrainingData
from mllm_msr.search_space import Range, Space
from mllm_msr.types import Seed

_SIMILARITY: Final = "similarity"
_SHARES: Final = "shares"


@final
class ItemKnn(ArrayBaseline):
    """Recommender by item similarity from common users.

    Args:
        n_neighbors: Number of most similar items kept for each item, at least 1.
        shrinkage: Constant added to the denominator of the similarity, at least 0. It lowers the
            similarity of pairs with few common users; 0 disables it.
        decay: Factor from the weight of an item of a history to that of the item before it, in
            (0, 1].
        n_last: Latest items of a history that are used, at least 1.
        balance: Exponent of both items' counts in the denominator, in [0, 1]. 0.5 is the cosine;
            lower values favor popular items.
        prior: Weight of the popularity of an item (its share of all interactions), at least 0. It
            ranks the many items without similarity to the history.
        seed: Accepted for uniformity; the model is deterministic.

    Raises:
        SettingsError: A value is out of range.
    """

    ARRAYS = (*packed_names(_SIMILARITY), _SHARES)
    label: ClassVar[str] = "Item-kNN"

    def __init__(
        self,
        *,
        n_neighbors: int = 500,
        shrinkage: float = 10.0,
        decay: float = 0.7,
        n_last: int = 50,
        balance: float = 0.6,
        prior: float = 0.1,
        seed: Seed = 0,
    ) -> None:
        problems = [
            f"{name} must be at least 1, but is {value}."
            for name, value in (("n_neighbors", n_neighbors), ("n_last", n_last))
            if value < 1
        ]
        if not 0.0 < decay <= 1.0:
            problems.append(f"decay must be in (0, 1], but is {decay}.")
        if not 0.0 <= balance <= 1.0:
            problems.append(f"balance must be in [0, 1], but is {balance}.")
        problems += [
            f"{name} must be at least 0, but is {value}."
            for name, value in (("shrinkage", shrinkage), ("prior", prior))
            if not value >= 0.0
        ]
        if problems:
            raise SettingsError(problems)
        super().__init__(
            {
                "n_neighbors": n_neighbors,
                "shrinkage": shrinkage,
                "decay": decay,
                "n_last": n_last,
                "balance": balance,
                "prior": prior,
                "seed": seed,
            }
        )

    @classmethod
    def space(cls) -> Space:
        """Return the search space of `mllm-msr tune`."""
        return {
            "n_neighbors": Range(20, 1000, log=True),
            "shrinkage": Range(0.0, 50.0),
            "decay": Range(0.3, 1.0),
            "balance": Range(0.0, 1.0),
            "prior": Range(0.0, 1.0),
        }

    def fit(self, data: TrainingData) -> Self:
        """Compute the similarity of all pairs of items with a common user."""
        catalog = catalog_of(data)
        matrix = interaction_matrix(data.interactions, catalog)
        similarity = item_similarity(
            matrix,
            n_neighbors=self._settings["n_neighbors"],
            shrinkage=self._settings["shrinkage"],
            balance=self._settings["balance"],
        )
        shares = np.asarray(matrix.sum(axis=0), dtype=np.float32) / max(1, matrix.nnz)
        return self._store(catalog, pack_matrix(_SIMILARITY, similarity) | {_SHARES: shares})

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """Yield the weighted similarity of all items to each history, at least 0."""
        state = self._require_fitted()
        similarity, shares = unpack_matrix(_SIMILARITY, state), state.arrays[_SHARES]
        history = history_matrix(
            users,
            interactions,
            state.catalog,
            decay=self._settings["decay"],
            n_last=self._settings["n_last"],
        )
        for chunk, rows in in_chunks(users, history):
            yield chunk, (rows @ similarity).toarray() + self._settings["prior"] * shares

    def _check_arrays(self, state: State) -> None:
        """Check that the matrix fits the catalog."""
        unpack_matrix(_SIMILARITY, state)


def item_similarity(
    matrix: sparse.csr_array, *, n_neighbors: int, shrinkage: float, balance: float
) -> sparse.csr_array:
    """Compute each item's similarity to its most similar items.

    Args:
        matrix: Binary user-item matrix, shape [n_users, n_items].
        n_neighbors: As for `ItemKnn`.
        shrinkage: As for `ItemKnn`.
        balance: As for `ItemKnn`.

    Returns:
        Shape [n_items, n_items], at most `n_neighbors` values per row.
    """
    counts = np.asarray(matrix.sum(axis=0), dtype=np.float32).ravel()
    weights = np.power(np.maximum(counts, 1.0), balance)
    by_item = sparse.csr_array(matrix.T)
    parts = []
    for start in range(0, by_item.shape[0], CHUNK):
        pairs = sparse.csr_array(by_item[start : start + CHUNK] @ matrix)
        row = np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr)) + start
        pairs.data /= weights[row] * weights[pairs.indices] + shrinkage
        pairs.data[row == pairs.indices] = 0.0  # An item is not its own neighbor.
        parts.append(_largest_per_row(pairs, n_neighbors))
    if not parts:
        return sparse.csr_array((0, 0), dtype=np.float32)
    return sparse.vstack(parts, format="csr")


def _largest_per_row(pairs: sparse.csr_array, n_kept: int) -> sparse.csr_array:
    """Keep the largest positive values of each row."""
    keep = pairs.data > 0.0
    for start, end in zip(pairs.indptr[:-1], pairs.indptr[1:], strict=True):
        if end - start > n_kept:
            order = np.argpartition(pairs.data[start:end], -n_kept)
            keep[start + order[:-n_kept]] = False
    indptr = np.concatenate([[0], np.cumsum(keep)])[pairs.indptr]
    return sparse.csr_array((pairs.data[keep], pairs.indices[keep], indptr), shape=pairs.shape)
