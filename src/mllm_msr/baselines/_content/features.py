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
from mllm_msr.models.encoders.base import ImageEncoder, TextEncoder, Vectors
from mllm_msr.models.encoders.factory import open_image_encoder, open_text_encoder
from mllm_msr.storage.artifact_cache import ArtifactCache
from mllm_msr.tables import ITEMS, conform
from mllm_msr.types import Item

logger = logging.getLogger(__name__)

NONE: Final = "none"
_IMAGE_BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class ContentVectors:
    """Content vectors of items, one row per item.

    Attributes:
        item_ids: Item ids, in the order of the items table.
        text: Shape [n_items, d_text]; zero rows for items without text.
        image: Shape [n_items, d_image]; the mean over the readable images of an item, zero rows
            for items without one.
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
    """Encode the texts (title and text) and the images of each item.

    To encode other texts, such as summaries, pass them in the column `text`. Images that cannot be
    opened are left out; items without a readable image get a zero row. A warning states the number
    of items whose images cannot be opened.

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


def item_texts(items: pl.DataFrame) -> list[str]:
    """Return title and text of each item of `tables.ITEMS`; "" if it has neither."""
    joined = pl.concat_str("title", "text", separator="\n", ignore_nulls=True).str.strip_chars()
    return items.select(joined.fill_null("").alias("text"))["text"].to_list()


def encode_texts(
    texts: Sequence[str], encoder: TextEncoder, *, cache: Path | None = None, space: str = ""
) -> Vectors:
    """Encode texts; empty ones get a zero row.

    Args:
        texts: Any texts.
        encoder: Text encoder.
        cache: Folder for computed vectors; None disables caching.
        space: What the vectors depend on besides the fingerprint of the encoder and the texts.
    """

    def encode() -> Vectors:
        present = [text for text in texts if text]
        encoded = encoder.encode(present) if present else None
        return _with_zero_rows(encoded, [bool(text) for text in texts])

    return _cached(cache, f"{encoder.fingerprint}{space}", texts, encode)


def _text_vectors(items: pl.DataFrame, name: str, cache: Path | None) -> Vectors:
    return encode_texts(item_texts(items), open_text_encoder(name), cache=cache)


def _image_vectors(items: pl.DataFrame, name: str, cache: Path | None) -> Vectors:
    encoder = open_image_encoder(name)
    images = [Item.from_row(row).images for row in items.iter_rows(named=True)]
    hashes = [",".join(map(_hash, paths)) for paths in images]
    vectors = _cached(cache, encoder.fingerprint, hashes, lambda: _encode_images(encoder, images))
    has_path = np.array([bool(paths) for paths in images], dtype=bool)
    n_unreadable = int((has_path & ~vectors.any(axis=1)).sum())
    if n_unreadable:
        logger.warning(
            "%d of %d images cannot be read; they get zero vectors.", n_unreadable, has_path.sum()
        )
    return vectors


def _hash(path: Path) -> str:
    try:
        return content_hash(path)
    except ImageError:
        return "unreadable"


def _encode_images(encoder: ImageEncoder, images: Sequence[Sequence[Path]]) -> Vectors:
    """Return the mean vector of the readable images of each item."""
    parts: list[Vectors] = []
    n_readable = [0] * len(images)
    for start in range(0, len(images), _IMAGE_BATCH):
        opened = []
        for row, paths in enumerate(images[start : start + _IMAGE_BATCH], start):
            for path in paths:
                try:
                    opened.append(open_image(path, max_side=encoder.max_side))
                    n_readable[row] += 1
                except ImageError as error:
                    logger.debug("Leaving out an image: %s", error)
        batches = (opened[i : i + _IMAGE_BATCH] for i in range(0, len(opened), _IMAGE_BATCH))
        parts += map(encoder.encode, batches)
    means = _means(np.concatenate(parts), [n for n in n_readable if n]) if parts else None
    return _with_zero_rows(means, [n > 0 for n in n_readable])


def _means(vectors: Vectors, counts: Sequence[int]) -> Vectors:
    """Return the mean of the vectors of each item, [n_items, d_image].

    Args:
        vectors: Shape [n_images, d_image], those of one item in a row.
        counts: Number of images of each item, at least 1.
    """
    n_images = np.array(counts)
    sums = np.add.reduceat(vectors, np.cumsum(n_images) - n_images, axis=0)
    means: Vectors = (sums / n_images[:, None]).astype(np.float32)
    return means


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
