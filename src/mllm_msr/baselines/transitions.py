"""Transitions: what other users chose soon after the user's last item.

A first-order Markov chain, smoothed twice. What came some steps later counts as a follower too,
with a weight that falls with the distance, since direct followers are rarely seen twice; and the
share of each follower is drawn towards the items' overall shares (Dirichlet smoothing), so that
a last item with few or no followers leaves a ranking by popularity, as an empty history does.
Items that nobody chose score 0.
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
    catalogue_of,
    history_matrix,
    in_chunks,
    item_codes,
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

_FOLLOWERS: Final = "followers"
_SHARES: Final = "shares"


@final
class Transitions(Recommender):
    """P(next item | last item), smoothed.

    Args:
        smoothing: Weight of the overall shares, as a number of observed transitions, above 0.
        reach: Steps up to which a later item counts as a follower, at least 1, the plain chain.
        fading: Weight of a follower over that of one a step nearer, in (0, 1].
        seed: Accepted like everywhere; chance plays no part here.

    Raises:
        SettingsError: A value is out of its range.
    """

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
        self._settings: dict[str, Any] = {
            "smoothing": smoothing,
            "reach": reach,
            "fading": fading,
            "seed": seed,
        }
        self._catalogue: tuple[str, ...] = ()
        self._followers: sparse.csr_array | None = None
        self._shares = np.zeros(0, dtype=np.float32)

    @classmethod
    def space(cls) -> Space:
        """What `mllm-msr tune` searches."""
        return {
            "smoothing": Between(0.1, 100.0, log=True),
            "reach": Between(1, 20),
            "fading": Between(0.3, 1.0),
        }

    def fit(self, data: TrainingData) -> Self:
        """Count pairs of near items in all visible histories, and all choices."""
        self._catalogue = catalogue_of(data)
        n_items = len(self._catalogue)
        rows = data.interactions.sort("user_id", "position")
        items = item_codes(rows["item_id"], self._catalogue)
        followers = sparse.csr_array((n_items, n_items), dtype=np.float32)
        for step in range(1, self._settings["reach"] + 1):
            same = (rows["user_id"] == rows["user_id"].shift(step)).fill_null(value=False)
            later = same.arg_true().to_numpy()
            weight = self._settings["fading"] ** (step - 1)
            weights = np.full(len(later), weight, dtype=np.float32)
            pairs = (items[later - step], items[later])
            followers += sparse.csr_array((weights, pairs), shape=(n_items, n_items))
        self._followers = sparse.csr_array(followers)
        counts = np.bincount(items, minlength=n_items)
        self._shares = (counts / max(1, len(items))).astype(np.float32)
        return self

    @property
    def catalogue(self) -> Sequence[str]:
        """Item ids, in the order of `score_catalogue`'s columns."""
        return self._catalogue

    def score_catalogue(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """All items' probability after each last item; see `interfaces.CatalogueScorer`."""
        followers, smoothing = self._fitted(), self._settings["smoothing"]
        last = history_matrix(users, interactions, self._catalogue, n_last=1)
        for chunk, rows in in_chunks(users, last):
            observed = (rows @ followers).toarray()
            n_observed = observed.sum(axis=1, keepdims=True)
            observed += np.float32(smoothing) * self._shares
            observed /= n_observed + np.float32(smoothing)
            yield chunk, observed

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Each candidate's probability after the last item of its user's history, in [0, 1]."""
        self._fitted()
        return score_candidates(self, candidates, interactions)

    def save(self, folder: Path) -> None:
        """Write settings, items, transitions and shares."""
        arrays = matrix_arrays(_FOLLOWERS, self._fitted()) | {_SHARES: self._shares}
        save_state(folder, State(self._settings, self._catalogue, arrays))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        state = load_state(folder, names=[*matrix_names(_FOLLOWERS), _SHARES])
        try:
            loaded = cls(**state.settings)
            loaded._followers = matrix_of(_FOLLOWERS, state)
        except (TypeError, ValueError, SettingsError) as cause:
            raise damaged(folder, str(cause)) from cause
        loaded._catalogue = state.catalogue
        loaded._shares = state.arrays[_SHARES]
        return loaded

    def _fitted(self) -> sparse.csr_array:
        if self._followers is None:
            raise unfitted("transitions")
        return self._followers
