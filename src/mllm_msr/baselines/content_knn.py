"""Content-kNN: an item's score is its likeness to the mean of what the user chose lately.

Cosines of frozen content vectors, one for texts and one for images, averaged with a weight.
Nothing is learnt from other users, so that items nobody has chosen yet are served like all
others; an item without content, and a user without a history, score 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.baselines._content.features import Vectors, content_vectors
from mllm_msr.baselines._shared.catalog import history_matrix, in_chunks
from mllm_msr.baselines._shared.fitted import FittedRecommender
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import TrainingData
from mllm_msr.search_space import Range, Space

_TEXT: Final = "text"
_IMAGE: Final = "image"


@final
class ContentKnn(FittedRecommender):
    """Likeness of items by what they say and show.

    Args:
        text_encoder: See `_content/features.py`.
        image_encoder: See `_content/features.py`.
        image_weight: Share of the images' cosine in the score, in [0, 1].
        decay: Weight of a history's item over that of the next later one, in (0, 1].
        n_last: Items of a history that count, the latest; at least 1.
        content_cache: Folder for finished content vectors; None keeps none.
        seed: Accepted like everywhere; chance plays no part here.

    Raises:
        SettingsError: A value is out of its range.
    """

    ARRAYS = (_TEXT, _IMAGE)

    def __init__(
        self,
        *,
        text_encoder: str = "hashing",
        image_encoder: str = "colours",
        image_weight: float = 0.1,
        decay: float = 0.95,
        n_last: int = 50,
        content_cache: Path | None = None,
        seed: int = 0,
    ) -> None:
        problems = []
        if not 0.0 <= image_weight <= 1.0:
            problems.append(f"image_weight must lie in [0, 1], it is {image_weight}")
        if not 0.0 < decay <= 1.0:
            problems.append(f"decay must lie in (0, 1], it is {decay}")
        if n_last < 1:
            problems.append(f"n_last must be at least 1, it is {n_last}")
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
        """What `mllm-msr tune` searches."""
        return {
            "image_weight": Range(0.0, 1.0),
            "decay": Range(0.3, 1.0),
            "n_last": Range(1, 50, log=True),
        }

    def fit(self, data: TrainingData) -> Self:
        """Encode the catalog; nothing is learnt from interactions."""
        content = content_vectors(
            data.items,
            text_encoder=self._settings["text_encoder"],
            image_encoder=self._settings["image_encoder"],
            cache=self._cache,
        )
        vectors = {_TEXT: _directions(content.text), _IMAGE: _directions(content.image)}
        return self._keep(content.item_ids, vectors)

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """All items' likeness to each history, in [-1, 1]."""
        state, share = self._fitted(), self._settings["image_weight"]
        text, image = state.arrays[_TEXT], state.arrays[_IMAGE]
        read = history_matrix(
            users,
            interactions,
            state.catalog,
            decay=self._settings["decay"],
            n_last=self._settings["n_last"],
        )
        for chunk, rows in in_chunks(users, read):
            scores = (1.0 - share) * _unit(rows @ text) @ text.T
            yield chunk, scores + share * _unit(rows @ image) @ image.T


def _directions(vectors: Vectors) -> Vectors:
    """Unit rows around the mean of all items that have content; zero rows stay zero.

    Without the mean taken away, what all items share would make all cosines alike.
    """
    present = np.flatnonzero(np.abs(vectors).sum(axis=1))
    directions = np.zeros_like(vectors)
    if present.size:
        directions[present] = _unit(vectors[present] - vectors[present].mean(axis=0))
    return directions


def _unit(rows: npt.NDArray[Any]) -> Vectors:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Vectors = (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled
