"""Color and edge statistics: the default image encoder of the baselines.

It needs neither weights nor torch. It captures how an image looks, not what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from mllm_msr.models.encoders.base import Vectors

_SIDE: Final = 32
_CELLS: Final = 4
_LEVELS: Final = 4
_DIRECTIONS: Final = 8


@final
class ColorEncoder:
    """Mean color of each of 4 x 4 cells, a joint color histogram and edge directions.

    The three groups have 48, 64 and 45 dimensions; each group is scaled to unit length.
    """

    max_side: Final = 2 * _SIDE

    @property
    def fingerprint(self) -> str:
        """Return the method and its version."""
        return "colors/1"

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """Encode images.

        Returns:
            Shape [n_images, 157].
        """
        size = (_SIDE, _SIDE)
        pixels = np.stack([np.asarray(image.convert("RGB").resize(size)) for image in images])
        groups = [
            group / np.maximum(np.linalg.norm(group, axis=1, keepdims=True), 1e-12)
            for group in (mean_colors(pixels), color_histogram(pixels), edge_directions(pixels))
        ]
        return np.concatenate(groups, axis=1).astype(np.float32)


def mean_colors(pixels: npt.NDArray[np.uint8]) -> Vectors:
    """Compute the mean color of each cell.

    Args:
        pixels: Shape [n_images, 32, 32, 3].

    Returns:
        Shape [n_images, 4 * 4 * 3].
    """
    width = _SIDE // _CELLS
    cells = pixels.reshape(len(pixels), _CELLS, width, _CELLS, width, 3) / np.float32(255)
    means: Vectors = cells.mean(axis=(2, 4), dtype=np.float32).reshape(len(pixels), -1)
    return means


def color_histogram(pixels: npt.NDArray[np.uint8]) -> Vectors:
    """Compute the square root of the share of pixels in each bin of a joint RGB histogram.

    Args:
        pixels: Shape [n_images, 32, 32, 3].

    Returns:
        Shape [n_images, 4 ** 3].
    """
    levels = (pixels // (256 // _LEVELS)).astype(np.int64)  # [n_images, side, side, 3]
    bins = (levels @ np.array([_LEVELS**2, _LEVELS, 1])).reshape(len(pixels), -1)
    # One `bincount` for all images: each image has its own range of bins.
    shifted = bins + np.arange(len(pixels))[:, None] * _LEVELS**3
    counts = np.bincount(shifted.ravel(), minlength=len(pixels) * _LEVELS**3)
    shares = counts.reshape(len(pixels), -1) / bins.shape[1]
    roots: Vectors = np.sqrt(shares, dtype=np.float32)
    return roots


def edge_directions(pixels: npt.NDArray[np.uint8]) -> Vectors:
    """Compute the edge strength by direction for the whole image and for each quarter.

    Args:
        pixels: Shape [n_images, 32, 32, 3].

    Returns:
        Shape [n_images, 5 * (8 + 1)]: for each area the square root of the mean strength in 8
        directions and of the strength's standard deviation.
    """
    gray = pixels.mean(axis=3, dtype=np.float32) / 255.0
    down, right = np.gradient(gray, axis=(1, 2))
    strength = np.hypot(down, right)
    turns = (np.arctan2(down, right) / (2 * np.pi)) % 1.0
    direction = np.minimum((turns * _DIRECTIONS).astype(np.int64), _DIRECTIONS - 1)
    half = _SIDE // 2
    areas = [
        (slice(None), slice(None)),
        *((slice(y, y + half), slice(x, x + half)) for y in (0, half) for x in (0, half)),
    ]
    columns = []
    for rows, across in areas:
        area = strength[:, rows, across]
        columns += [
            np.where(direction[:, rows, across] == index, area, 0.0).mean(axis=(1, 2))
            for index in range(_DIRECTIONS)
        ]
        columns.append(area.std(axis=(1, 2)))
    roots: Vectors = np.sqrt(np.stack(columns, axis=1), dtype=np.float32)
    return roots
