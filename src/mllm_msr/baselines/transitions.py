"""Transitions: a smoothed first-order Markov chain over items.

The score of an item is the probability that it follows the user's last item. Two kinds of
smoothing compensate for sparse data. Items several steps later count as followers, too, with a
weight that decreases with the distance. The distribution of followers is shrunk toward the overall
distribution of items (Dirichlet smoothing), so a last item with few followers, or an empty history,
gives a ranking by popularity. Items without interactions score 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from mllm_msr.baselines._shared.array_baseline import ArrayBaseline
from mllm_msr.baselines._shared.catalog import catalog_of, item_columns
from mllm_msr.baselines._shared.sparse_matrices import (
    history_matrix,
    in_chunks,
    pack_matrix,
    packed_names,
    unpack_matrix,
)
from mllm_msr.baselines._shared.state import State
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import TrainingData
from mllm_msr.search_space import Range, Space
from mllm_msr.types import Seed

_FOLLOWERS: Final = "followers"
_SHARES: Final = "shares"


@final
class Transitions(ArrayBaseline):
    """Recommender by the smoothed probability of the next item given the last item.

    Args:
        smoothing: Weight of the overall distribution, in observed transitions, above 0.
        window: Number of steps within which a later item counts as a follower, at least 1; 1 is
            the plain Markov chain.
        decay: Factor from the weight of a follower to that of the follower one step later, in
            (0, 1].
        seed: Accepted for uniformity; the model is deterministic.

    Raises:
        SettingsError: A value is out of range.
    """

    ARRAYS = (*packed_names(_FOLLOWERS), _SHARES)
    label: ClassVar[str] = "Transitions"

    def __init__(
        self, *, smoothing: float = 10.0, window: int = 10, decay: float = 0.8, seed: Seed = 0
    ) -> None:
        problems = []
        if not smoothing > 0.0:
            problems.append(f"smoothing must be positive, but is {smoothing}.")
        if window < 1:
            problems.append(f"window must be at least 1, but is {window}.")
        if not 0.0 < decay <= 1.0:
            problems.append(f"decay must be in (0, 1], but is {decay}.")
        if problems:
            raise SettingsError(problems)
        super().__init__({"smoothing": smoothing, "window": window, "decay": decay, "seed": seed})

    @classmethod
    def space(cls) -> Space:
        """Return the search space of `mllm-msr tune`."""
        return {
            "smoothing": Range(0.1, 100.0, log=True),
            "window": Range(1, 20),
            "decay": Range(0.3, 1.0),
        }

    def fit(self, data: TrainingData) -> Self:
        """Count the transitions in all visible histories, and all interactions."""
        catalog = catalog_of(data)
        n_items = len(catalog)
        rows = data.interactions.sort("user_id", "position")
        items = item_columns(rows["item_id"], catalog)
        followers = sparse.csr_array((n_items, n_items), dtype=np.float32)
        for step in range(1, self._settings["window"] + 1):
            same = (rows["user_id"] == rows["user_id"].shift(step)).fill_null(value=False)
            later = same.arg_true().to_numpy()
            weight = self._settings["decay"] ** (step - 1)
            weights = np.full(len(later), weight, dtype=np.float32)
            pairs = (items[later - step], items[later])
            followers += sparse.csr_array((weights, pairs), shape=(n_items, n_items))
        counts = np.bincount(items, minlength=n_items)
        shares = (counts / max(1, len(items))).astype(np.float32)
        packed = pack_matrix(_FOLLOWERS, sparse.csr_array(followers))
        return self._store(catalog, packed | {_SHARES: shares})

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """Yield the probabilities of all items after the last item of each target, in [0, 1]."""
        state, smoothing = self._require_fitted(), self._settings["smoothing"]
        followers, shares = unpack_matrix(_FOLLOWERS, state), state.arrays[_SHARES]
        last = history_matrix(users, interactions, state.catalog, n_last=1)
        for chunk, rows in in_chunks(users, last):
            observed = (rows @ followers).toarray()
            n_observed = observed.sum(axis=1, keepdims=True)
            observed += np.float32(smoothing) * shares
            observed /= n_observed + np.float32(smoothing)
            yield chunk, observed

    def _check_arrays(self, state: State) -> None:
        """Check that the matrix fits the catalog."""
        unpack_matrix(_FOLLOWERS, state)
