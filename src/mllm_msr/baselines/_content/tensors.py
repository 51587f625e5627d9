"""Content vectors as the neural baselines read them: one tensor per modality, one row per item code.

Encoders differ in scale and offset; here every column is brought to mean zero and variance one
over the items that have the modality, and rows to a length of about one. Items without it keep a
zero row, which after this is the average item and therefore says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mllm_msr.baselines._content.features import ContentVectors, Vectors, content_vectors
from mllm_msr.baselines._training.histories import ItemCodes
from mllm_msr.errors import DataError


@dataclass(kw_only=True, eq=False)
class ReadsContent:
    """Settings of a neural baseline that reads content.

    Attributes:
        text_encoder: A text encoder's name, see `features.py`.
        image_encoder: An image encoder's name, see `features.py`.
        content_cache: Folder for finished content vectors; None keeps none.
    """

    text_encoder: str = "hashing"
    image_encoder: str = "colours"
    content_cache: Path | None = None

    def content(self, items: pl.DataFrame, codes: ItemCodes) -> dict[str, Tensor]:
        """Content by modality and item code, as `content_tensors` gives it.

        Args:
            items: `tables.ITEMS`, paths of images absolute.
            codes: Codes of the items.

        Raises:
            DataError: All modalities were left out.
            BackendError: There is no such encoder, or its weights cannot be read.
        """
        vectors = content_vectors(
            items,
            text_encoder=self.text_encoder,
            image_encoder=self.image_encoder,
            cache=self.content_cache,
        )
        return content_tensors(vectors, codes)


def content_tensors(content: ContentVectors, codes: ItemCodes) -> dict[str, Tensor]:
    """Standardised content by item code.

    Args:
        content: Vectors of (at least) the items that have codes.
        codes: Codes of the items.

    Returns:
        "text" and "image", each float32 [n_codes, d]; a modality that was left out is missing.

    Raises:
        DataError: All modalities were left out.
    """
    rows = np.zeros(len(content.item_ids), dtype=np.int64)
    place = {item: code for code, item in enumerate(codes.item_ids, start=1)}
    rows[:] = [place.get(item, 0) for item in content.item_ids]
    found = {}
    for name, vectors in (("text", content.text), ("image", content.image)):
        if vectors.shape[1]:
            table = np.zeros((codes.n_codes, vectors.shape[1]), dtype=np.float32)
            table[rows] = standardised(vectors)
            table[0] = 0.0
            found[name] = torch.from_numpy(table)
    if not found:
        raise DataError(
            needed="content vectors of at least one modality",
            received="text_encoder='none' and image_encoder='none'",
            remedy="choose an encoder for text or image",
        )
    return found


@torch.no_grad()
def settle_unchosen(ids: Tensor, chosen: Tensor) -> None:
    """Give items that training never met, whose id embedding learned nothing, the mean one.

    Args:
        ids: Id embeddings, [n_codes, width]; changed in place.
        chosen: bool [n_codes]; the items that somebody chose. Nothing is done where it holds none.
    """
    if bool(chosen.any()):
        ids[~chosen] = ids[chosen].mean(0)


def standardised(vectors: Vectors) -> Vectors:
    """Columns to mean zero and variance one over the non-zero rows, rows to length one or so.

    Args:
        vectors: Shape [n_items, d]; zero rows stand for a missing modality and stay zero.
    """
    scaled = np.zeros_like(vectors)
    present = vectors.any(axis=1)
    if present.any():
        seen = vectors[present]
        spread = seen.std(axis=0)
        centred = (seen - seen.mean(axis=0)) / np.where(spread > 1e-6, spread, 1.0)
        scaled[present] = centred / np.sqrt(vectors.shape[1])
    return scaled
