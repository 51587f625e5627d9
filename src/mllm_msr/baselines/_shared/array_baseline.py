"""Base of baselines whose fitted state is a set of arrays over the catalog.

A subclass declares the names of its arrays, computes them in `fit` and scores the whole catalog
for a chunk of users. Scoring candidates, saving and loading are implemented here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.baselines._shared.catalog import score_candidates
from mllm_msr.baselines._shared.state import State, damaged, load_state, save_state, unfitted
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import Recommender


class ArrayBaseline(Recommender):
    """Recommender whose fitted state is a set of arrays; implements `CatalogScorer`.

    Args:
        settings: Constructor arguments that affect fitting or scoring.

    Attributes:
        ARRAYS: Names of the arrays that `fit` computes.
    """

    ARRAYS: ClassVar[Sequence[str]]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = dict(settings)
        self._state: State | None = None

    @property
    def catalog(self) -> Sequence[str]:
        """Return the item ids in the column order of `score_catalog`."""
        return () if self._state is None else self._state.catalog

    @abstractmethod
    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """Score all items for each target; see `interfaces.CatalogScorer`."""

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Look up the candidates in the catalog scores; items outside the catalog score 0."""
        self._require_fitted()
        return score_candidates(self, candidates, interactions)

    def save(self, folder: Path) -> None:
        """Write settings, items and arrays."""
        save_state(folder, self._require_fitted())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        state = load_state(folder, names=cls.ARRAYS)
        try:
            loaded = cls(**state.settings)
            loaded._check_arrays(state)
        except (TypeError, ValueError, SettingsError) as cause:
            raise damaged(folder, str(cause)) from cause
        loaded._state = state
        return loaded

    def _check_arrays(self, state: State) -> None:
        """Check that the arrays of a loaded state are consistent.

        Raises:
            ValueError: They are inconsistent.
        """

    def _store(self, catalog: Sequence[str], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Set the fitted state and return the model."""
        self._state = State(self._settings, tuple(catalog), arrays)
        return self

    def _require_fitted(self) -> State:
        """Return the fitted state.

        Raises:
            TrainingError: Neither `fit` nor `load` has been called.
        """
        if self._state is None:
            raise unfitted(type(self).__module__.rpartition(".")[2])
        return self._state
