"""A baseline whose fit is a few arrays over its catalog: what saves, loads and scores it.

A subclass says which arrays it keeps, fills them in `fit`, and writes the scores of all items
for a chunk of users; candidates are looked up there.
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


class FittedRecommender(Recommender):
    """What such baselines share.

    Args:
        settings: Constructor arguments, those that change what is fitted or scored.

    Attributes:
        ARRAYS: Names of the arrays that `fit` fills.
    """

    ARRAYS: ClassVar[Sequence[str]]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = dict(settings)
        self._state: State | None = None

    @property
    def catalog(self) -> Sequence[str]:
        """Item ids, in the order of `score_catalog`'s columns."""
        return () if self._state is None else self._state.catalog

    @abstractmethod
    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """All items' scores; see `interfaces.CatalogScorer`."""

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Each candidate's score there; 0 for items that the catalog lacks."""
        self._fitted()
        return score_candidates(self, candidates, interactions)

    def save(self, folder: Path) -> None:
        """Write settings, items and arrays."""
        save_state(folder, self._fitted())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        state = load_state(folder, names=cls.ARRAYS)
        try:
            loaded = cls(**state.settings)
            loaded.check(state)
        except (TypeError, ValueError, SettingsError) as cause:
            raise damaged(folder, str(cause)) from cause
        loaded._state = state
        return loaded

    def check(self, state: State) -> None:
        """Refuse arrays that do not fit together.

        Raises:
            ValueError: They do not.
        """

    def _keep(self, catalog: Sequence[str], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Remember what was fitted."""
        self._state = State(self._settings, tuple(catalog), arrays)
        return self

    def _fitted(self) -> State:
        if self._state is None:
            raise unfitted(type(self).__module__.rpartition(".")[2])
        return self._state
