"""Interfaces and names of text and image encoders, and normalization of their vectors."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

Vectors = npt.NDArray[np.float32]
Modality = Literal["text", "image"]

_NEGLIGIBLE: Final = 1e-6


class TextEncoder(Protocol):
    """An encoder that turns texts into vectors."""

    @property
    def fingerprint(self) -> str:
        """Identify everything about the encoder that affects its vectors."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts.

        Args:
            texts: Any texts, including empty ones.

        Returns:
            Shape [n_texts, d_text].
        """


class ImageEncoder(Protocol):
    """An encoder that turns images into vectors."""

    @property
    def fingerprint(self) -> str:
        """Identify everything about the encoder that affects its vectors."""

    @property
    def max_side(self) -> int:
        """Return the maximum side, in pixels, to which callers should reduce images."""

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """Encode a batch of images, at least one.

        Returns:
            Shape [n_images, d_image].
        """


def encoder_names(modality: Modality) -> list[str]:
    """Return the names of all encoders that are not checkpoints, in alphabetical order."""
    modules = pkgutil.iter_modules([str(Path(__file__).with_name(modality))])
    return sorted(module.name.replace("_", "-") for module in modules)


def unit_rows(vectors: Vectors) -> Vectors:
    """Scale rows to unit length; rows shorter than 1e-6 become zero rows.

    Args:
        vectors: Shape [n, d].

    Returns:
        Shape [n, d].

    Example:
        >>> unit_rows(np.array([[0.0, 2.0], [0.0, 0.0]], dtype=np.float32)).tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    lengths[lengths < _NEGLIGIBLE] = np.inf
    unit: Vectors = (vectors / lengths[:, None]).astype(np.float32)
    return unit
