"""Content vectors as the neural rivals read them: one tensor per modality, one row per item code.

Encoders differ in scale and offset; here every column is brought to mean zero and variance one
over the items that have the modality, and rows to a length of about one. Items without it keep a
zero row, which after this is the average item and therefore says nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mllm_msr.baselines._content.features import ContentVectors, Vectors
from mllm_msr.baselines._training.histories import ItemCodes
from mllm_msr.errors import DataError


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
