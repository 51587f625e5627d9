"""Models in which a score is the product of a user's and an item's vector: full ranking is cheap.

Candidates are scored pair by pair, so that neither their order nor their company matters; whole
catalogs by matrix products, a chunk of users at a time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.baselines._content.recommender import ContentBaseline, ContentModel
from mllm_msr.baselines._shared.catalog import targets_of

Floats = npt.NDArray[np.float32]

_CHUNK: Final = 1024


class VectorModel(ContentModel):
    """A fitted model whose scores are inner products."""

    @abstractmethod
    def item_vectors(self) -> Floats:
        """By item code, the code of unknown items included: [n_codes, width]."""

    @abstractmethod
    def user_vectors(self, targets: pl.DataFrame, interactions: pl.DataFrame) -> Floats:
        """One for each target, whatever is known of its user: [n_targets, width].

        Args:
            targets: Columns `user_id` and `position`.
            interactions: `tables.INTERACTIONS`.
        """

    def scores(
        self, candidates: pl.DataFrame, interactions: pl.DataFrame
    ) -> npt.NDArray[np.float64]:
        """Inner products of users and candidates: [n_rows]."""
        targets, rows = targets_of(candidates)
        items = self.codes.encode(candidates["item_id"])
        users, table = self.user_vectors(targets, interactions), self.item_vectors()
        products = [
            np.einsum("nd,nd->n", users[rows[at : at + _CHUNK]], table[items[at : at + _CHUNK]])
            for at in range(0, len(items), _CHUNK)
        ]
        return np.concatenate([np.zeros(0), *products]).astype(np.float64)

    def catalog_scores(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, Floats]]:
        """As `interfaces.CatalogScorer.score_catalog`."""
        table = self.item_vectors()[1:].T
        for chunk in users.iter_slices(_CHUNK):
            yield chunk, self.user_vectors(chunk, interactions) @ table


V = TypeVar("V", bound=VectorModel)


class VectorBaseline(ContentBaseline[V]):
    """A baseline with content that also scores its whole catalog; see `CatalogScorer`."""

    @property
    def catalog(self) -> Sequence[str]:
        """Item ids, in the order of `score_catalog`'s columns."""
        return self._ready().codes.item_ids

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, Floats]]:
        """Score every item of the catalog, a chunk of users at a time."""
        return self._ready().catalog_scores(users, interactions)
