"""Item-kNN: an item's score is its likeness to what the user chose lately.

Two items are alike when the same users chose both: cosine of their columns in the user-item
matrix, shrunk where few did (Deshpande and Karypis 2004; Sarwar et al. 2001). A user's history
counts with weights that fall from the latest item backwards. What resembles nothing in a history
is ordered by popularity, and so is everything for a user without one; items that nobody chose
score 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from mllm_msr.baselines._catalogue import (
    CHUNK,
    catalogue_of,
    chosen_matrix,
    history_matrix,
    in_chunks,
    score_candidates,
)
from mllm_msr.baselines._state import (
    State,
    damaged,
    load_state,
    matrix_arrays,
    matrix_names,
    matrix_of,
    save_state,
    unfitted,
)
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.spaces import Between, Space

_LIKENESS: Final = "likeness"
_SHARES: Final = "shares"


@final
class ItemKnn(Recommender):
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
        self._settings: dict[str, Any] = {
            "n_neighbours": n_neighbours,
            "shrinkage": shrinkage,
            "decay": decay,
            "n_last": n_last,
            "balance": balance,
            "prior": prior,
            "seed": seed,
        }
        self._catalogue: tuple[str, ...] = ()
        self._likeness: sparse.csr_array | None = None
        self._shares = np.zeros(0, dtype=np.float32)

    @classmethod
    def space(cls) -> Space:
        """What `mllm-msr tune` searches."""
        return {
            "n_neighbours": Between(20, 1000, log=True),
            "shrinkage": Between(0.0, 50.0),
            "decay": Between(0.3, 1.0),
            "balance": Between(0.0, 1.0),
            "prior": Between(0.0, 1.0),
        }

    def fit(self, data: TrainingData) -> Self:
        """Compare all pairs of items that some user shares."""
        self._catalogue = catalogue_of(data)
        chosen = chosen_matrix(data.interactions, self._catalogue)
        self._shares = np.asarray(chosen.sum(axis=0), dtype=np.float32) / max(1, chosen.nnz)
        self._likeness = _likeness(
            chosen,
            n_neighbours=self._settings["n_neighbours"],
            shrinkage=self._settings["shrinkage"],
            balance=self._settings["balance"],
        )
        return self

    @property
    def catalogue(self) -> Sequence[str]:
        """Item ids, in the order of `score_catalogue`'s columns."""
        return self._catalogue

    def score_catalogue(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """All items' likeness to each history; see `interfaces.CatalogueScorer`."""
        likeness = self._fitted()
        read = history_matrix(
            users,
            interactions,
            self._catalogue,
            decay=self._settings["decay"],
            n_last=self._settings["n_last"],
        )
        for chunk, rows in in_chunks(users, read):
            yield chunk, (rows @ likeness).toarray() + self._settings["prior"] * self._shares

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Each candidate's weighted likeness to the items of its user's history, at least 0."""
        self._fitted()
        return score_candidates(self, candidates, interactions)

    def save(self, folder: Path) -> None:
        """Write settings, items and their neighbours."""
        arrays = matrix_arrays(_LIKENESS, self._fitted()) | {_SHARES: self._shares}
        save_state(folder, State(self._settings, self._catalogue, arrays))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        state = load_state(folder, names=[*matrix_names(_LIKENESS), _SHARES])
        try:
            loaded = cls(**state.settings)
            loaded._likeness = matrix_of(_LIKENESS, state)
        except (TypeError, ValueError, SettingsError) as cause:
            raise damaged(folder, str(cause)) from cause
        loaded._catalogue = state.catalogue
        loaded._shares = state.arrays[_SHARES]
        return loaded

    def _fitted(self) -> sparse.csr_array:
        if self._likeness is None:
            raise unfitted("item_knn")
        return self._likeness


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
