"""Content vectors as tensors: standardized, one per modality, one row per item code.

Encoders differ in scale and offset. Columns are scaled to mean zero and variance one over the items
that have the modality, and rows to a length of about one. Items without the modality keep a zero
row, which after standardization equals the average item.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mllm_msr.baselines._content.features import ContentVectors, content_vectors
from mllm_msr.baselines._training.histories import UNKNOWN, ItemCodes
from mllm_msr.errors import DataError
from mllm_msr.models.encoders.base import Vectors


@dataclass(kw_only=True, eq=False)
class ReadsContent:
    """Settings of a neural baseline that uses content.

    Attributes:
        text_encoder: Name of a text encoder, see `models/encoders/factory.py`, or "none".
        image_encoder: Name of an image encoder, or "none".
        content_cache: Folder in which content vectors are cached; None disables caching.
    """

    text_encoder: str = "hashing"
    image_encoder: str = "colors"
    content_cache: Path | None = None

    def content(self, items: pl.DataFrame, codes: ItemCodes) -> dict[str, Tensor]:
        """Encode the content of items, see `content_tensors`.

        Args:
            items: `tables.ITEMS` with absolute image paths.
            codes: Codes of the items.

        Raises:
            DataError: All modalities are left out.
            BackendError: An encoder is unknown, or its weights cannot be loaded.
        """
        vectors = content_vectors(
            items,
            text_encoder=self.text_encoder,
            image_encoder=self.image_encoder,
            cache=self.content_cache,
        )
        return content_tensors(vectors, codes)


def content_tensors(content: ContentVectors, codes: ItemCodes) -> dict[str, Tensor]:
    """Standardize content vectors and arrange them by item code.

    Args:
        content: Vectors of at least the items that have codes.
        codes: Codes of the items.

    Returns:
        "text" and "image", each float32 [n_codes, d]; modalities of width zero are missing.

    Raises:
        DataError: All modalities are left out.
    """
    code_of = {item: code for code, item in enumerate(codes.item_ids, start=1)}
    rows = np.array([code_of.get(item, UNKNOWN) for item in content.item_ids], dtype=np.int64)
    tensors = {}
    for name, vectors in (("text", content.text), ("image", content.image)):
        if vectors.shape[1]:
            table = np.zeros((codes.n_codes, vectors.shape[1]), dtype=np.float32)
            table[rows] = standardize(vectors)
            table[UNKNOWN] = 0.0
            tensors[name] = torch.from_numpy(table)
    if not tensors:
        raise DataError(
            "The model needs content vectors of at least one modality, but text_encoder and "
            "image_encoder are both 'none'. Choose an encoder for texts or images."
        )
    return tensors


@torch.no_grad()
def fill_cold_embeddings(ids: Tensor, has_interactions: Tensor) -> None:
    """Set the untrained id embeddings of items without interactions to the mean embedding.

    Args:
        ids: Id embeddings, [n_codes, width]; changed in place.
        has_interactions: bool [n_codes]. Nothing is changed if no item has interactions.
    """
    if bool(has_interactions.any()):
        ids[~has_interactions] = ids[has_interactions].mean(0)


def standardize(vectors: Vectors, columns: Vectors | None = None) -> Vectors:
    """Standardize the columns over the non-zero rows, and scale rows to a length of about one.

    Args:
        vectors: Shape [n_items, d]; zero rows mark a missing modality and stay zero.
        columns: Mean and deviation of the columns; by default those of `vectors`.
    """
    mean, deviation = column_scales(vectors) if columns is None else columns
    scaled = np.zeros_like(vectors)
    present = vectors.any(axis=1)
    scaled[present] = (vectors[present] - mean) / deviation / np.sqrt(vectors.shape[1])
    return scaled


def column_scales(vectors: Vectors) -> Vectors:
    """Return mean and standard deviation of each column over the non-zero rows: [2, d].

    Constant columns have the deviation 1.
    """
    rows = vectors[vectors.any(axis=1)]
    if not len(rows):
        return np.stack([np.zeros(vectors.shape[1]), np.ones(vectors.shape[1])]).astype(np.float32)
    deviation = rows.std(axis=0)
    scales: Vectors = np.stack([rows.mean(axis=0), np.where(deviation > 1e-6, deviation, 1.0)])
    return scales
