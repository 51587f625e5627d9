"""Texts become vectors: frozen encoders with which retrieval compares preferences and items.

"hashing" needs no model and no download: TF-IDF of words, hashed to columns and reduced to the
main directions of the catalogue. Any Transformers text model takes its place by its folder or id.
The paper ranks given candidates and has no such step; `recommend/retrieval.py` uses it to find candidates in
a whole catalogue.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, final

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

from mllm_msr.errors import BackendError
from mllm_msr.storage.artifact_cache import ArtifactCache, digest
from mllm_msr.storage.atomic import content_hash

Vectors = npt.NDArray[np.float32]

HASHING: Final = "hashing"

_BATCH: Final = 64
# So many that few of a catalogue's words share one; only directions of them are kept dense.
_COLUMNS: Final = 2**14
_NEGLIGIBLE: Final = 1e-6
_WORD: Final = re.compile(r"[^\W_]+")


class TextEncoder(Protocol):
    """Turns texts into unit vectors whose inner product says how alike two texts are."""

    @property
    def fingerprint(self) -> str:
        """What changes the vectors: the method, or the checkpoint."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts.

        Args:
            texts: Any texts, empty ones included.

        Returns:
            float32 [n_texts, width], rows of length one; a zero row where a text says nothing.
        """


def text_encoder(
    name: str, corpus: Sequence[str], *, artifact_cache: ArtifactCache | None = None
) -> TextEncoder:
    """An encoder by its name.

    Args:
        name: "hashing", or the folder or id of a Transformers text model.
        corpus: Texts from which "hashing" learns how rare words are.
        artifact_cache: Where "hashing" keeps what takes long to learn.

    Raises:
        BackendError: There is no such model, or it cannot be loaded.
    """
    return (
        HashingEncoder(corpus, artifact_cache=artifact_cache)
        if name == HASHING
        else TransformersEncoder(name)
    )


@final
class HashingEncoder:
    """TF-IDF of words hashed to columns, of which the main directions of a corpus are kept.

    Args:
        corpus: Texts that tell how rare each word is and which words go together (latent
            semantic analysis). Few texts keep all their directions.
        width: Most directions, the length of the vectors.
        artifact_cache: Where the directions are kept; they take seconds for ten thousand texts.
    """

    def __init__(
        self,
        corpus: Sequence[str],
        *,
        width: int = 128,
        artifact_cache: ArtifactCache | None = None,
    ) -> None:
        found = Counter(word for text in corpus for word in set(_words(text)))
        n_texts = len(corpus)
        self._idf = {word: float(np.log((1 + n_texts) / n)) for word, n in found.items()}
        self._rarest = float(np.log(1 + n_texts)) if n_texts else 1.0
        self._directions = (artifact_cache or ArtifactCache()).array(
            "directions",
            digest(method=HASHING, corpus=list(corpus), width=width),
            lambda: _directions(self._weights(corpus), width),
        )

    @property
    def fingerprint(self) -> str:
        """The method and its width."""
        return f"{HASHING}:{self._directions.shape[1]}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`; a text without a word of the corpus says nothing."""
        return _unit(self._weights(texts) @ self._directions)

    def _weights(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Weights of the texts' words, float32 [n_texts, columns]."""
        values, columns, ends = [], [], [0]
        for text in texts:
            for word, count in Counter(_words(text)).items():
                columns.append(_column(word))
                values.append(self._idf.get(word, self._rarest) * (1.0 + np.log(count)))
            ends.append(len(columns))
        return sparse.csr_matrix(
            (np.array(values, dtype=np.float32), columns, ends), shape=(len(texts), _COLUMNS)
        )


@final
class TransformersEncoder:
    """A Transformers text model, the mean of its last states over a text's tokens.

    Args:
        checkpoint: Folder, or id on the hub.
        max_tokens: Longest text, in tokens; the rest is cut.

    Raises:
        BackendError: It cannot be loaded.
    """

    def __init__(self, checkpoint: str, *, max_tokens: int = 256) -> None:
        # Takes seconds to import, and the default encoder needs none of it.
        import transformers  # noqa: PLC0415

        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(checkpoint)
            self._model: Any = transformers.AutoModel.from_pretrained(checkpoint).eval()
        except (OSError, ValueError) as cause:
            raise BackendError(
                needed="a Transformers text model as encoder",
                received=f"{checkpoint!r} ({str(cause).splitlines()[0]})",
                remedy=f"name a folder or id that AutoModel loads, or use {HASHING!r}",
            ) from cause
        folder = Path(checkpoint)
        commit = getattr(self._model.config, "_commit_hash", None)
        self._state = content_hash(folder)[0] if folder.is_dir() else commit
        self._checkpoint = checkpoint
        self._max_tokens = max_tokens

    @property
    def fingerprint(self) -> str:
        """The checkpoint and its content, or its commit on the hub."""
        return f"transformers:{self._checkpoint}@{self._state}:{self._max_tokens}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`."""
        import torch  # noqa: PLC0415 - see __init__

        width = int(self._model.config.get_text_config().hidden_size)
        parts = [np.zeros((0, width), dtype=np.float32)]
        for start in range(0, len(texts), _BATCH):
            inputs = self._tokenizer(
                list(texts[start : start + _BATCH]),
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = self._model(**inputs).last_hidden_state  # [batch, length, width]
            mask = inputs["attention_mask"].unsqueeze(-1)
            mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            parts.append(mean.float().numpy())
        return _unit(np.concatenate(parts))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _column(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest()) % _COLUMNS


def _directions(weights: sparse.csr_matrix, width: int) -> Vectors:
    """The main directions of a corpus, float32 [columns, width or fewer]."""
    if min(weights.shape) <= width:
        # Few texts: their own directions are all there are, found without a truncated solver.
        _, values, rows = np.linalg.svd(_dense(weights), full_matrices=False)
        kept = rows[values > _NEGLIGIBLE]
    else:
        _, _, kept = svds(weights, k=width, random_state=0)
    return np.ascontiguousarray(kept.T, dtype=np.float32)


def _dense(weights: sparse.csr_matrix) -> Vectors:
    dense: Vectors = weights.toarray()
    return dense


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.sqrt(np.einsum("nw,nw->n", vectors, vectors))
    lengths[lengths < _NEGLIGIBLE] = np.inf
    unit: Vectors = (vectors / lengths[:, None]).astype(np.float32)
    return unit
