"""Content vectors without weights: hashed words, and colours with their places.

The defaults of `features.py`. They are honest but shallow: `hashing` knows that two texts share
words or parts of words, not that two words mean the same; `colours` knows what a image's
surface looks like, not what it shows.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import sparse

Vectors = npt.NDArray[np.float32]

_N_BUCKETS: Final = 2**16
_GRAMS: Final = (3, 4)
_WORDS: Final = re.compile(r"\w+")
_OVERSAMPLING: Final = 16
_POWER_ITERATIONS: Final = 4

_SIDE: Final = 32
_CELLS: Final = 4
_LEVELS: Final = 4
_DIRECTIONS: Final = 8


@final
class HashingEncoder:
    """Hashed TF-IDF of words and of character 3- and 4-grams, reduced by a truncated SVD.

    Vectors depend on all texts together: they are frozen for one catalog, not across two.

    Args:
        n_dimensions: Width of the vectors; less where there are fewer texts.
    """

    def __init__(self, *, n_dimensions: int = 128) -> None:
        self._n_dimensions = n_dimensions

    @property
    def fingerprint(self) -> str:
        """Name, version of the recipe and width."""
        return f"hashing/1/{self._n_dimensions}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One row for each text: [n_texts, min(n_dimensions, n_texts)]."""
        return _reduce(_tf_idf(texts), self._n_dimensions)


@final
class ColourEncoder:
    """Mean colour of each of 4 x 4 cells, a joint histogram of colours, directions of edges.

    The three groups have 48, 64 and 45 numbers, each group of unit length.
    """

    max_side: Final = 2 * _SIDE

    @property
    def fingerprint(self) -> str:
        """Name and version of the recipe."""
        return "colours/1"

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """One row for each image: [n_images, 157]."""
        size = (_SIDE, _SIDE)
        pixels = np.stack([np.asarray(image.convert("RGB").resize(size)) for image in images])
        groups = (_layout(pixels), _histogram(pixels), _edges(pixels))
        return np.concatenate([_unit(group) for group in groups], axis=1).astype(np.float32)


def _tf_idf(texts: Sequence[str]) -> sparse.csr_array:
    """Rows of unit length over hashed features: [n_texts, n_buckets]."""
    known: dict[str, list[int]] = {}
    rows: list[int] = []
    columns: list[int] = []
    counts: list[int] = []
    for row, text in enumerate(texts):
        found: Counter[int] = Counter()
        for word in _WORDS.findall(text.lower()) or [text.lower()]:
            if word not in known:
                known[word] = [zlib.crc32(part.encode()) % _N_BUCKETS for part in _parts(word)]
            found.update(known[word])
        rows += [row] * len(found)
        columns += found.keys()
        counts += found.values()
    weights = 1.0 + np.log(np.array(counts, dtype=np.float32))
    matrix = sparse.csr_array((weights, (rows, columns)), shape=(len(texts), _N_BUCKETS))
    frequency = np.bincount(columns, minlength=_N_BUCKETS)
    weighted = matrix * np.log1p(len(texts) / (1.0 + frequency)).astype(np.float32)
    lengths = np.sqrt(weighted.multiply(weighted).sum(axis=1))
    scale = 1.0 / np.maximum(lengths, 1e-12)
    return sparse.csr_array(sparse.diags_array(scale.astype(np.float32)) @ weighted)


def _parts(word: str) -> Iterator[str]:
    """A word, and its character n-grams with its ends marked."""
    yield f"word {word}"
    marked = f"<{word}>"
    for n in _GRAMS:
        for start in range(len(marked) - n + 1):
            yield marked[start : start + n]


def _reduce(matrix: sparse.csr_array, n_dimensions: int) -> Vectors:
    """Left singular vectors times singular values, by Halko's randomised method.

    Written out because SciPy's truncated decompositions refuse small catalogs.
    """
    n_rows, n_columns = matrix.shape
    n_kept = min(n_dimensions, n_rows)
    sketch = np.random.default_rng(0).standard_normal(
        (n_columns, min(n_kept + _OVERSAMPLING, n_rows)), dtype=np.float32
    )
    basis, _ = np.linalg.qr(matrix @ sketch)
    for _ in range(_POWER_ITERATIONS):
        basis, _ = np.linalg.qr(matrix @ (matrix.T @ basis))
    small = matrix.T @ basis  # [n_columns, n_sketch]
    squares, directions = np.linalg.eigh(small.T @ small)  # ascending
    values = np.sqrt(np.maximum(squares[::-1][:n_kept], 0.0))
    reduced: Vectors = (basis @ directions[:, ::-1][:, :n_kept] * values).astype(np.float32)
    return reduced


def _layout(pixels: npt.NDArray[np.uint8]) -> Vectors:
    """Mean colour of each cell: [n_images, cells * cells * 3]."""
    width = _SIDE // _CELLS
    cells = pixels.reshape(len(pixels), _CELLS, width, _CELLS, width, 3) / np.float32(255)
    means: Vectors = cells.mean(axis=(2, 4), dtype=np.float32).reshape(len(pixels), -1)
    return means


def _histogram(pixels: npt.NDArray[np.uint8]) -> Vectors:
    """Root of the share of pixels in each joint colour bin: [n_images, levels ** 3]."""
    levels = (pixels // (256 // _LEVELS)).astype(np.int64)  # [n_images, side, side, 3]
    bins = (levels @ np.array([_LEVELS**2, _LEVELS, 1])).reshape(len(pixels), -1)
    places = bins + np.arange(len(pixels))[:, None] * _LEVELS**3
    counts = np.bincount(places.ravel(), minlength=len(pixels) * _LEVELS**3)
    shares = counts.reshape(len(pixels), -1) / bins.shape[1]
    roots: Vectors = np.sqrt(shares, dtype=np.float32)
    return roots


def _edges(pixels: npt.NDArray[np.uint8]) -> Vectors:
    """Strength of edges by direction in each quarter and overall: [n_images, 5 * 8 + 5]."""
    grey = pixels.mean(axis=3, dtype=np.float32) / 255.0
    down, right = np.gradient(grey, axis=(1, 2))
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
            np.where(direction[:, rows, across] == at, area, 0.0).mean(axis=(1, 2))
            for at in range(_DIRECTIONS)
        ]
        columns.append(area.std(axis=(1, 2)))
    roots: Vectors = np.sqrt(np.stack(columns, axis=1), dtype=np.float32)
    return roots


def _unit(rows: Vectors) -> Vectors:
    scaled: Vectors = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled
