"""Item-kNN: an item's score is its likeness to what the user chose lately.

Two items are alike when the same users chose both: cosine of their columns in the user-item
matrix, shrunk where few did (Deshpande and Karypis 2004; Sarwar et al. 2001). A user's history
counts with weights that fall from the latest item backwards. What resembles nothing in a history
is ordered by popularity, and so is everything for a user without one; items that nobody chose
score 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from mllm_msr.baselines._shared.catalog import (
    CHUNK,
    catalog_of,
    chosen_matrix,
    history_matrix,
    in_chunks,
)
from mllm_msr.baselines._shared.fitted import FittedRecommender
from mllm_msr.baselines._shared.state import State, matrix_arrays, matrix_names, matrix_of
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import TrainingData
from mllm_msr.search_space import Range, Space

_LIKENESS: Final = "likeness"
_SHARES: Final = "shares"


@final
class ItemKnn(FittedRecommender):
    """Likeness of items by the users that they share.

    Args:
        n_neighbours: Most alike items that each item keeps, at least 1.
        shrinkage: Shared users that a pair must do without, at least 0, which trusts a single one
            fully.
        decay: Weight of a history's item over that of the next later one, in (0, 1].
        n_last: Items of a history that count, the latest; at least 1.
        balance: Exponent of both items' counts in the denominator, in [0, 1]; 0.5 is the cosine,
            less favours popular items.
        prior: Weight of an item's share of all choices, at least 0; it orders the many items
            that resemble nothing in the history.
        seed: Accepted like everywhere; chance plays no part here.

    Raises:
        SettingsError: A value is out of its range.
    """

    ARRAYS = (*matrix_names(_LIKENESS), _SHARES)

    def __init__(
        self,
        *,
        n_neighbours: int = 500,
        shrinkage: float = 10.0,
        decay: float = 0.7,
        n_last: int = 50,
        balance: float = 0.6,
        prior: float = 0.1,
        seed: int = 0,
    ) -> None:
        problems = [
            f"{name} must be at least 1, it is {value}"
            for name, value in (("n_neighbours", n_neighbours), ("n_last", n_last))
            if value < 1
        ]
        if not 0.0 < decay <= 1.0:
            problems.append(f"decay must lie in (0, 1], it is {decay}")
        if not 0.0 <= balance <= 1.0:
            problems.append(f"balance must lie in [0, 1], it is {balance}")
        problems += [
            f"{name} must be at least 0, it is {value}"
            for name, value in (("shrinkage", shrinkage), ("prior", prior))
            if not value >= 0.0
        ]
        if problems:
            raise SettingsError(problems)
        super().__init__(
            {
                "n_neighbours": n_neighbours,
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
        """What `mllm-msr tune` searches."""
        return {
            "n_neighbours": Range(20, 1000, log=True),
            "shrinkage": Range(0.0, 50.0),
            "decay": Range(0.3, 1.0),
            "balance": Range(0.0, 1.0),
            "prior": Range(0.0, 1.0),
        }

    def fit(self, data: TrainingData) -> Self:
        """Compare all pairs of items that some user shares."""
        catalog = catalog_of(data)
        chosen = chosen_matrix(data.interactions, catalog)
        likeness = _likeness(
            chosen,
            n_neighbours=self._settings["n_neighbours"],
            shrinkage=self._settings["shrinkage"],
            balance=self._settings["balance"],
        )
        shares = np.asarray(chosen.sum(axis=0), dtype=np.float32) / max(1, chosen.nnz)
        return self._keep(catalog, matrix_arrays(_LIKENESS, likeness) | {_SHARES: shares})

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """All items' weighted likeness to each history, at least 0."""
        state = self._fitted()
        likeness, shares = matrix_of(_LIKENESS, state), state.arrays[_SHARES]
        read = history_matrix(
            users,
            interactions,
            state.catalog,
            decay=self._settings["decay"],
            n_last=self._settings["n_last"],
        )
        for chunk, rows in in_chunks(users, read):
            yield chunk, (rows @ likeness).toarray() + self._settings["prior"] * shares

    def check(self, state: State) -> None:
        """Refuse a matrix that is none of this catalog."""
        matrix_of(_LIKENESS, state)


def _likeness(
    chosen: sparse.csr_array, *, n_neighbours: int, shrinkage: float, balance: float
) -> sparse.csr_array:
    """Each item's most alike others: [n_items, n_items], at most n_neighbours in a row."""
    counts = np.asarray(chosen.sum(axis=0), dtype=np.float32).ravel()
    weights = np.power(np.maximum(counts, 1.0), balance)
    by_item = sparse.csr_array(chosen.T)
    parts = []
    for start in range(0, by_item.shape[0], CHUNK):
        pairs = sparse.csr_array(by_item[start : start + CHUNK] @ chosen)
        row = np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr)) + start
        pairs.data /= weights[row] * weights[pairs.indices] + shrinkage
        pairs.data[row == pairs.indices] = 0.0  # an item is not its own neighbour
        parts.append(_strongest(pairs, n_neighbours))
    if not parts:
        return sparse.csr_array((0, 0), dtype=np.float32)
    return sparse.vstack(parts, format="csr")


def _strongest(pairs: sparse.csr_array, n_kept: int) -> sparse.csr_array:
    """The greatest positive values of each row."""
    keep = pairs.data > 0.0
    for start, end in zip(pairs.indptr[:-1], pairs.indptr[1:], strict=True):
        if end - start > n_kept:
            order = np.argpartition(pairs.data[start:end], -n_kept)
            keep[start + order[:-n_kept]] = False
    lengths = np.concatenate([[0], np.cumsum(keep)])[pairs.indptr]
    return sparse.csr_array((pairs.data[keep], pairs.indices[keep], lengths), shape=pairs.shape)
