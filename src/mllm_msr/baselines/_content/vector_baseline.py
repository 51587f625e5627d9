"""Base of models whose score is an inner product of a user and an item vector: MMGCN, MGAT, MMSR.

Candidates are scored independently, so neither their order nor the other candidates matter. Whole
catalogs are scored by matrix products, a chunk of users at a time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.baselines._content.content_baseline import ContentBaseline, ContentModel
from mllm_msr.baselines._shared.catalog import distinct_targets

Floats = npt.NDArray[np.float32]

_CHUNK: Final = 1024


class VectorModel(ContentModel):
    """Fitted model whose scores are inner products."""

    @abstractmethod
    def item_vectors(self) -> Floats:
        """Return the vectors of all item codes, including the unknown item, [n_codes, width]."""

    @abstractmethod
    def user_vectors(self, targets: pl.DataFrame, interactions: pl.DataFrame) -> Floats:
        """Compute a vector for each target, unknown users included.

        Args:
            targets: Columns `user_id` and `position`.
            interactions: `tables.INTERACTIONS`.

        Returns:
            Shape [n_targets, width].
        """

    def scores(
        self, candidates: pl.DataFrame, interactions: pl.DataFrame
    ) -> npt.NDArray[np.float64]:
        """Compute the inner products of users and candidates, [n_candidates]."""
        targets, rows = distinct_targets(candidates)
        items = self.codes.encode(candidates["item_id"])
        users, table = self.user_vectors(targets, interactions), self.item_vectors()
        products = [
            np.einsum(
                "nd,nd->n",
                users[rows[start : start + _CHUNK]],
                table[items[start : start + _CHUNK]],
            )
            for start in range(0, len(items), _CHUNK)
        ]
        return np.concatenate([np.zeros(0), *products]).astype(np.float64)

    def catalog_scores(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, Floats]]:
        """Yield the scores of all items, a chunk of users at a time; see `CatalogScorer`."""
        table = self.item_vectors()[1:].T
        for chunk in users.iter_slices(_CHUNK):
            yield chunk, self.user_vectors(chunk, interactions) @ table


V = TypeVar("V", bound=VectorModel)


class VectorBaseline(ContentBaseline[V]):
    """Baseline with content that also implements `CatalogScorer`."""

    @property
    def catalog(self) -> Sequence[str]:
        """Return the item ids in the column order of `score_catalog`."""
        return self._require_fitted().codes.item_ids

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, Floats]]:
        """Score all items, a chunk of users at a time; see `interfaces.CatalogScorer`."""
        return self._require_fitted().catalog_scores(users, interactions)
