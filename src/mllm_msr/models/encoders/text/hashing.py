"""Hashed TF-IDF of words and character n-grams: the default text encoder of the baselines.

It needs neither weights nor torch. It captures which words or parts of words texts share, not what
the words mean. See `lsa.py` for the related encoder of retrieval.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Final, final

import numpy as np
from scipy import sparse

from mllm_msr.models.encoders.base import Vectors

_N_BUCKETS: Final = 2**16
_NGRAM_SIZES: Final = (3, 4)
_WORDS: Final = re.compile(r"\w+")
_OVERSAMPLING: Final = 16
_POWER_ITERATIONS: Final = 4


@final
class HashingEncoder:
    """Hashed TF-IDF of words and of character 3- and 4-grams, reduced by a truncated SVD.

    Both the document frequencies and the SVD come from the texts of one call, so vectors are only
    comparable within that call. This suffices for the baselines, which encode a whole catalog at
    once; character n-grams give similar vectors to inflected forms of a word. Retrieval has to
    encode queries and new items later, in the space of an existing catalog, and therefore uses
    `lsa.LsaEncoder`, which is fitted on a corpus first.

    Args:
        n_dimensions: Width of the vectors, reduced to the number of texts if that is smaller.
    """

    def __init__(self, *, n_dimensions: int = 128) -> None:
        self._n_dimensions = n_dimensions

    @property
    def fingerprint(self) -> str:
        """Return the method, its version and the width."""
        return f"hashing/1/{self._n_dimensions}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts into the space that they span together.

        Returns:
            Shape [n_texts, min(n_dimensions, n_texts)].
        """
        return truncated_svd(hashed_tf_idf(texts), self._n_dimensions)


def hashed_tf_idf(texts: Sequence[str]) -> sparse.csr_array:
    """Compute TF-IDF weights of hashed features.

    Args:
        texts: Any texts.

    Returns:
        Shape [n_texts, 65536], rows of unit length.
    """
    buckets_of_word: dict[str, list[int]] = {}
    rows: list[int] = []
    columns: list[int] = []
    counts: list[int] = []
    for row, text in enumerate(texts):
        found: Counter[int] = Counter()
        for word in _WORDS.findall(text.lower()) or [text.lower()]:
            if word not in buckets_of_word:
                marked = f"<{word}>"  # distinguishes the start and end of a word from its middle
                ngrams = [
                    marked[start : start + n]
                    for n in _NGRAM_SIZES
                    for start in range(len(marked) - n + 1)
                ]
                buckets_of_word[word] = [
                    zlib.crc32(feature.encode()) % _N_BUCKETS
                    for feature in (f"word {word}", *ngrams)
                ]
            found.update(buckets_of_word[word])
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


def truncated_svd(matrix: sparse.csr_array, n_dimensions: int) -> Vectors:
    """Compute left singular vectors times singular values by a randomized SVD (Halko et al. 2011).

    Implemented here because SciPy's truncated decompositions reject small matrices.

    Args:
        matrix: Shape [n_rows, n_columns].
        n_dimensions: Number of singular values to keep.

    Returns:
        Shape [n_rows, min(n_dimensions, n_rows)].
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
