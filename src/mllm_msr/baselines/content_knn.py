"""Content-kNN: the score of an item is its content similarity to the user's latest items.

The similarity is the cosine between the frozen content vector of the item and the weighted mean of
the vectors of the history, computed for texts and for images and averaged with a weight. Nothing is
learned from other users, so new items are scored like all others. The score is 0 for items without
content and for users without a history.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.baselines._content.features import content_vectors
from mllm_msr.baselines._shared.array_baseline import ArrayBaseline
from mllm_msr.baselines._shared.sparse_matrices import history_matrix, in_chunks
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import TrainingData
from mllm_msr.models.encoders.base import Vectors
from mllm_msr.search_space import Range, Space
from mllm_msr.types import Seed

_TEXT: Final = "text"
_IMAGE: Final = "image"


@final
class ContentKnn(ArrayBaseline):
    """Recommender by similarity of texts and images.

    Args:
        text_encoder: Name of a text encoder, see `models/encoders/factory.py`, or "none".
        image_encoder: Name of an image encoder, or "none".
        image_weight: Weight of the image similarity in the score, in [0, 1].
        decay: Factor from the weight of an item of a history to that of the item before it, in
            (0, 1].
        n_last: Latest items of a history that are used, at least 1.
        content_cache: Folder in which content vectors are cached; None disables caching.
        seed: Accepted for uniformity; the model is deterministic.

    Raises:
        SettingsError: A value is out of range.
    """

    ARRAYS = (_TEXT, _IMAGE)
    label: ClassVar[str] = "Content-kNN"

    def __init__(
        self,
        *,
        text_encoder: str = "hashing",
        image_encoder: str = "colors",
        image_weight: float = 0.1,
        decay: float = 0.95,
        n_last: int = 50,
        content_cache: Path | None = None,
        seed: Seed = 0,
    ) -> None:
        problems = []
        if not 0.0 <= image_weight <= 1.0:
            problems.append(f"image_weight must be in [0, 1], but is {image_weight}.")
        if not 0.0 < decay <= 1.0:
            problems.append(f"decay must be in (0, 1], but is {decay}.")
        if n_last < 1:
            problems.append(f"n_last must be at least 1, but is {n_last}.")
        if problems:
            raise SettingsError(problems)
        super().__init__(
            {
                "text_encoder": text_encoder,
                "image_encoder": image_encoder,
                "image_weight": image_weight,
                "decay": decay,
                "n_last": n_last,
                "seed": seed,
            }
        )
        self._cache = content_cache

    @classmethod
    def space(cls) -> Space:
        """Return the search space of `mllm-msr tune`."""
        return {
            "image_weight": Range(0.0, 1.0),
            "decay": Range(0.3, 1.0),
            "n_last": Range(1, 50, log=True),
        }

    def fit(self, data: TrainingData) -> Self:
        """Encode the catalog; nothing is learned from interactions."""
        content = content_vectors(
            data.items,
            text_encoder=self._settings["text_encoder"],
            image_encoder=self._settings["image_encoder"],
            cache=self._cache,
        )
        vectors = {_TEXT: _centered_units(content.text), _IMAGE: _centered_units(content.image)}
        return self._store(content.item_ids, vectors)

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """Yield the similarity of all items to each history, in [-1, 1]."""
        state, image_weight = self._require_fitted(), self._settings["image_weight"]
        text, image = state.arrays[_TEXT], state.arrays[_IMAGE]
        history = history_matrix(
            users,
            interactions,
            state.catalog,
            decay=self._settings["decay"],
            n_last=self._settings["n_last"],
        )
        for chunk, rows in in_chunks(users, history):
            scores = (1.0 - image_weight) * _unit_rows(rows @ text) @ text.T
            yield chunk, scores + image_weight * _unit_rows(rows @ image) @ image.T


def _centered_units(vectors: Vectors) -> Vectors:
    """Center the rows of all items with content and scale them to unit length.

    Zero rows stay zero. Without centering, the component common to all items would dominate every
    cosine.
    """
    present = np.flatnonzero(np.abs(vectors).sum(axis=1))
    units = np.zeros_like(vectors)
    if present.size:
        units[present] = _unit_rows(vectors[present] - vectors[present].mean(axis=0))
    return units


def _unit_rows(rows: npt.NDArray[Any]) -> Vectors:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Vectors = (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled
