"""Latent semantic analysis of hashed words: the default text encoder of retrieval.

It needs neither weights nor a download. The paper ranks given candidates and has no retrieval
step; `recommend/retrieval.py` uses the vectors to find candidates in a whole catalog.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final, final

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from mllm_msr.models.encoders.base import Vectors, unit_rows
from mllm_msr.storage.artifact_cache import ArtifactCache, digest

# Large enough that few words of a catalog collide. Only the SVD's directions are dense.
_N_COLUMNS: Final = 2**14
_NEGLIGIBLE: Final = 1e-6
_WORD: Final = re.compile(r"[^\W_]+")


@final
class LsaEncoder:
    """TF-IDF of hashed words, projected onto the main directions of a corpus.

    Document frequencies and directions are learned from the corpus once, so later queries and
    items are encoded in the same space. `hashing.HashingEncoder` instead computes both from the
    texts of each call, which suffices for baselines, since they encode a fixed catalog once.

    Args:
        corpus: Texts from which document frequencies and directions are learned.
        n_dimensions: Maximum width of the vectors; a small corpus keeps all its directions.
        artifact_cache: Cache for the directions, which take seconds to compute for 10,000 texts.
    """

    def __init__(
        self,
        corpus: Sequence[str],
        *,
        n_dimensions: int = 128,
        artifact_cache: ArtifactCache | None = None,
    ) -> None:
        found = Counter(word for text in corpus for word in set(_words(text)))
        n_texts = len(corpus)
        self._idf = {word: float(np.log((1 + n_texts) / n)) for word, n in found.items()}
        self._idf_of_new_words = float(np.log(1 + n_texts)) if n_texts else 1.0
        self._directions = (artifact_cache or ArtifactCache()).array(
            "directions",
            digest(method="hashing", corpus=list(corpus), width=n_dimensions),
            lambda: main_directions(self._weights(corpus), n_dimensions),
        )

    @property
    def fingerprint(self) -> str:
        """Return the method and the width."""
        return f"lsa:{self._directions.shape[1]}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts into the space of the corpus.

        Returns:
            Shape [n_texts, d], rows of unit length; a zero row for a text that shares no word
            with the corpus.
        """
        return unit_rows(self._weights(texts) @ self._directions)

    def _weights(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Compute TF-IDF weights, float32 [n_texts, n_columns]."""
        values, columns, ends = [], [], [0]
        for text in texts:
            for word, count in Counter(_words(text)).items():
                hashed = hashlib.blake2b(word.encode(), digest_size=8).digest()
                columns.append(int.from_bytes(hashed) % _N_COLUMNS)
                values.append(self._idf.get(word, self._idf_of_new_words) * (1.0 + np.log(count)))
            ends.append(len(columns))
        return sparse.csr_matrix(
            (np.array(values, dtype=np.float32), columns, ends), shape=(len(texts), _N_COLUMNS)
        )


def main_directions(weights: sparse.csr_matrix, n_dimensions: int) -> Vectors:
    """Compute the right singular vectors with the largest singular values.

    Args:
        weights: Shape [n_texts, n_columns].
        n_dimensions: Number of directions to keep.

    Returns:
        Shape [n_columns, n_dimensions], or fewer directions if the corpus spans fewer.
    """
    if min(weights.shape) <= n_dimensions:
        # `svds` needs more texts than directions; a dense SVD of so few texts is cheap.
        dense: Vectors = weights.toarray()
        _, values, rows = np.linalg.svd(dense, full_matrices=False)
        kept = rows[values > _NEGLIGIBLE]
    else:
        _, _, kept = svds(weights, k=n_dimensions, random_state=0)
    return np.ascontiguousarray(kept.T, dtype=np.float32)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
