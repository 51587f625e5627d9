"""Content vectors: frozen encodings of the items' texts and images.

All baselines that use content (content-kNN, the `_F` models, MMGCN, MGAT, MMSR, Trans2D) and the
paper's Table 1 take their vectors from here, so every model gets the same content. Encoders are
selected by name, see `models/encoders/factory.py`; "none" leaves a modality out. With a cache
folder, vectors are computed once and stored under a hash of the encoder and the content.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from mllm_msr.data.images import content_hash, open_image
from mllm_msr.errors import ImageError
from mllm_msr.models.encoders.base import ImageEncoder, Vectors
from mllm_msr.models.encoders.factory import open_image_encoder, open_text_encoder
from mllm_msr.storage.artifact_cache import ArtifactCache
from mllm_msr.tables import ITEMS, conform

logger = logging.getLogger(__name__)

NONE: Final = "none"
_IMAGE_BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class ContentVectors:
    """Content vectors of items, one row per item.

    Attributes:
        item_ids: Item ids, in the order of the items table.
        text: Shape [n_items, d_text]; zero rows for items without text.
        image: Shape [n_items, d_image]; zero rows for items without a readable image.
    """

    item_ids: tuple[str, ...]
    text: Vectors
    image: Vectors


def content_vectors(
    items: pl.DataFrame,
    *,
    text_encoder: str = "hashing",
    image_encoder: str = "colors",
    cache: Path | None = None,
) -> ContentVectors:
    """Encode the texts (title and text) and the image of each item.

    To encode other texts, such as summaries, pass them in the column `text`. Items whose image
    cannot be opened get a zero row, like items without an image; a warning states their number.

    Args:
        items: `tables.ITEMS` with absolute image paths.
        text_encoder: Name of a text encoder; "none" gives vectors of width zero.
        image_encoder: Name of an image encoder; "none" gives vectors of width zero.
        cache: Folder for computed vectors; None disables caching.

    Raises:
        DataError: A column of `items` is missing.
        BackendError: An encoder is unknown, or its weights cannot be loaded.
    """
    table = conform(items, ITEMS, name="items")
    absent = np.zeros((table.height, 0), dtype=np.float32)
    return ContentVectors(
        item_ids=tuple(table["item_id"]),
        text=absent if text_encoder == NONE else _text_vectors(table, text_encoder, cache),
        image=absent if image_encoder == NONE else _image_vectors(table, image_encoder, cache),
    )


def _text_vectors(items: pl.DataFrame, name: str, cache: Path | None) -> Vectors:
    encoder = open_text_encoder(name)
    joined = pl.concat_str("title", "text", separator="\n", ignore_nulls=True).str.strip_chars()
    texts = items.select(joined.fill_null("").alias("text"))["text"].to_list()

    def encode() -> Vectors:
        present = [text for text in texts if text]
        encoded = encoder.encode(present) if present else None
        return _with_zero_rows(encoded, [bool(text) for text in texts])

    return _cached(cache, encoder.fingerprint, texts, encode)


def _image_vectors(items: pl.DataFrame, name: str, cache: Path | None) -> Vectors:
    encoder = open_image_encoder(name)
    paths = [Path(path) if path else None for path in items["image"]]
    hashes = []
    for path in paths:
        try:
            hashes.append("" if path is None else content_hash(path))
        except ImageError:
            hashes.append("unreadable")
    vectors = _cached(cache, encoder.fingerprint, hashes, lambda: _encode_images(encoder, paths))
    has_path = np.array([path is not None for path in paths], dtype=bool)
    n_unreadable = int((has_path & ~vectors.any(axis=1)).sum())
    if n_unreadable:
        logger.warning(
            "%d of %d images cannot be read; they get zero vectors.", n_unreadable, has_path.sum()
        )
    return vectors


def _encode_images(encoder: ImageEncoder, paths: Sequence[Path | None]) -> Vectors:
    readable = [False] * len(paths)
    parts: list[Vectors] = []
    for start in range(0, len(paths), _IMAGE_BATCH):
        images = []
        for index, path in enumerate(paths[start : start + _IMAGE_BATCH], start):
            if path is None:
                continue
            try:
                images.append(open_image(path, max_side=encoder.max_side))
                readable[index] = True
            except ImageError as error:
                logger.debug("Using a zero vector: %s", error)
        if images:
            parts.append(encoder.encode(images))
    return _with_zero_rows(np.concatenate(parts) if parts else None, readable)


def _with_zero_rows(vectors: Vectors | None, present: Sequence[bool]) -> Vectors:
    """Insert zero rows for absent items; return one zero column if nothing was encoded."""
    width = 1 if vectors is None else vectors.shape[1]
    rows = np.zeros((len(present), width), dtype=np.float32)
    if vectors is not None:
        rows[np.asarray(present, dtype=bool)] = vectors
    return rows


def _cached(
    cache: Path | None, fingerprint: str, contents: Sequence[str], encode: Callable[[], Vectors]
) -> Vectors:
    """Return cached vectors, or encode the contents and cache the result."""
    if cache is None:
        return encode()
    digest = hashlib.sha256(fingerprint.encode())
    for content in contents:
        encoded = content.encode("utf-8", errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    key = digest.hexdigest()
    return ArtifactCache(Path(cache)).array(key, key, encode)  # settings pass the folder as text
