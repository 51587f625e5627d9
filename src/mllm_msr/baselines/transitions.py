"""Transitions: what other users chose soon after the user's last item.

A first-order Markov chain, smoothed twice. What came some steps later counts as a follower too,
with a weight that falls with the distance, since direct followers are rarely seen twice; and the
share of each follower is drawn towards the items' overall shares (Dirichlet smoothing), so that
a last item with few or no followers leaves a ranking by popularity, as an empty history does.
Items that nobody chose score 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from mllm_msr.baselines._shared.catalog import (
    catalog_of,
    history_matrix,
    in_chunks,
    item_codes,
)
from mllm_msr.baselines._shared.fitted import FittedRecommender
from mllm_msr.baselines._shared.state import State, matrix_arrays, matrix_names, matrix_of
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import TrainingData
from mllm_msr.search_space import Range, Space

_FOLLOWERS: Final = "followers"
_SHARES: Final = "shares"


@final
class Transitions(FittedRecommender):
    """P(next item | last item), smoothed.

    Args:
        smoothing: Weight of the overall shares, as a number of observed transitions, above 0.
        reach: Steps up to which a later item counts as a follower, at least 1, the plain chain.
        fading: Weight of a follower over that of one a step nearer, in (0, 1].
        seed: Accepted like everywhere; chance plays no part here.

    Raises:
        SettingsError: A value is out of its range.
    """

    ARRAYS = (*matrix_names(_FOLLOWERS), _SHARES)

    def __init__(
        self, *, smoothing: float = 10.0, reach: int = 10, fading: float = 0.8, seed: int = 0
    ) -> None:
        problems = []
        if not smoothing > 0.0:
            problems.append(f"smoothing must be positive, it is {smoothing}")
        if reach < 1:
            problems.append(f"reach must be at least 1, it is {reach}")
        if not 0.0 < fading <= 1.0:
            problems.append(f"fading must lie in (0, 1], it is {fading}")
        if problems:
            raise SettingsError(problems)
        super().__init__({"smoothing": smoothing, "reach": reach, "fading": fading, "seed": seed})

    @classmethod
    def space(cls) -> Space:
        """What `mllm-msr tune` searches."""
        return {
            "smoothing": Range(0.1, 100.0, log=True),
            "reach": Range(1, 20),
            "fading": Range(0.3, 1.0),
        }

    def fit(self, data: TrainingData) -> Self:
        """Count pairs of near items in all visible histories, and all choices."""
        catalog = catalog_of(data)
        n_items = len(catalog)
        rows = data.interactions.sort("user_id", "position")
        items = item_codes(rows["item_id"], catalog)
        followers = sparse.csr_array((n_items, n_items), dtype=np.float32)
        for step in range(1, self._settings["reach"] + 1):
            same = (rows["user_id"] == rows["user_id"].shift(step)).fill_null(value=False)
            later = same.arg_true().to_numpy()
            weight = self._settings["fading"] ** (step - 1)
            weights = np.full(len(later), weight, dtype=np.float32)
            pairs = (items[later - step], items[later])
            followers += sparse.csr_array((weights, pairs), shape=(n_items, n_items))
        counts = np.bincount(items, minlength=n_items)
        shares = (counts / max(1, len(items))).astype(np.float32)
        found = matrix_arrays(_FOLLOWERS, sparse.csr_array(followers))
        return self._keep(catalog, found | {_SHARES: shares})

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """All items' probability after each last item, in [0, 1]."""
        state, smoothing = self._fitted(), self._settings["smoothing"]
        followers, shares = matrix_of(_FOLLOWERS, state), state.arrays[_SHARES]
        last = history_matrix(users, interactions, state.catalog, n_last=1)
        for chunk, rows in in_chunks(users, last):
            observed = (rows @ followers).toarray()
            n_observed = observed.sum(axis=1, keepdims=True)
            observed += np.float32(smoothing) * shares
            observed /= n_observed + np.float32(smoothing)
            yield chunk, observed

    def check(self, state: State) -> None:
        """Refuse a matrix that is none of this catalog."""
        matrix_of(_FOLLOWERS, state)
