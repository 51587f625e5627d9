"""Content vectors: what frozen encoders make of items' texts and images.

All baselines that read content (content-kNN, the `_F` models, MMGCN, MGAT, MMSR, Trans2D; the
paper's Table 1 as well) take their vectors from here, so that none has better eyes than another.
An encoder is named by a string:

    text    `hashing`     words and character n-grams, hashed TF-IDF, reduced to 128 dimensions
            `demo`    mean of the packaged model's last hidden states; it reads the language
                          of its own small world and little else
            any checkpoint of Transformers (folder or hub id, `id@revision`): mean pooling over
            the tokens, which is what sentence-transformers does; `bert-base-uncased` for BERT
    image   `colours`     where which colours and edges are, 157 numbers: no objects
            `demo`    mean of the packaged model's image tokens
            `vgg19:FILE`  VGG19 up to its second dense layer (4,096), weights in safetensors under
                          the names that torchvision uses
            any image encoder of Transformers: CLIP, SigLIP, ViT, ResNet, ...
    both    `none`        leaves the modality out: vectors of zero width

`hashing` and `colours` need neither weights nor torch and are the defaults. Vectors are computed
once: with a cache folder they are kept under a hash of the encoder and of all content.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mllm_msr.baselines._content.offline_encoders import ColourEncoder, HashingEncoder
from mllm_msr.data.images import content_hash, open_image
from mllm_msr.errors import ImageError
from mllm_msr.storage.atomic import replace_file
from mllm_msr.tables import ITEMS, conform

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

NONE: Final = "none"
_IMAGE_BATCH: Final = 32


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    @property
    def fingerprint(self) -> str:
        """Everything about the encoder that changes its vectors."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One row for each text: [n_texts, d_text]."""


class ImageEncoder(Protocol):
    """Turns images into vectors."""

    @property
    def fingerprint(self) -> str:
        """Everything about the encoder that changes its vectors."""

    @property
    def max_side(self) -> int:
        """Longest side, in pixels, that images are reduced to before they are handed over."""

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """One row for each image of a batch: [n_images, d_image]."""


@dataclass(frozen=True, slots=True)
class ContentVectors:
    """Items and their vectors, row by row.

    Attributes:
        item_ids: Items, in the order of the table that they came from.
        text: Shape [n_items, d_text]; zero rows where there is no text.
        image: Shape [n_items, d_image]; zero rows where there is no readable image.
    """

    item_ids: tuple[str, ...]
    text: Vectors
    image: Vectors


def content_vectors(
    items: pl.DataFrame,
    *,
    text_encoder: str = "hashing",
    image_encoder: str = "colours",
    cache: Path | None = None,
) -> ContentVectors:
    """Encode the title and text, and the image, of each item.

    To encode other words, such as summaries, hand them over as `text`. Items whose image
    cannot be opened get a zero row like those without one, and are counted in a warning.

    Args:
        items: `tables.ITEMS`, paths of images absolute.
        text_encoder: See the module.
        image_encoder: See the module.
        cache: Folder for finished vectors; nothing is kept where it is `None`.

    Raises:
        DataError: A column of `items` is missing.
        BackendError: There is no such encoder, or its weights cannot be read.
    """
    table = conform(items, ITEMS, name="items")
    return ContentVectors(
        item_ids=tuple(table["item_id"]),
        text=_text_vectors(table, text_encoder, cache),
        image=_image_vectors(table, image_encoder, cache),
    )


def _text_vectors(items: pl.DataFrame, name: str, cache: Path | None) -> Vectors:
    if name == NONE:
        return np.zeros((items.height, 0), dtype=np.float32)
    encoder = _open_text_encoder(name)
    joined = pl.concat_str("title", "text", separator="\n", ignore_nulls=True).str.strip_chars()
    texts = items.select(joined.fill_null("").alias("text"))["text"].to_list()
    kept = _cache_file(cache, encoder.fingerprint, texts)
    vectors = _read(kept, n_items=len(texts))
    if vectors is None:
        present = [text for text in texts if text]
        vectors = _spread(encoder.encode(present) if present else None, [bool(t) for t in texts])
        _keep(kept, vectors)
    return vectors


def _image_vectors(items: pl.DataFrame, name: str, cache: Path | None) -> Vectors:
    if name == NONE:
        return np.zeros((items.height, 0), dtype=np.float32)
    encoder = _open_image_encoder(name)
    paths = [Path(path) if path else None for path in items["image"]]
    kept = _cache_file(cache, encoder.fingerprint, [_image_hash(path) for path in paths])
    vectors = _read(kept, n_items=len(paths))
    if vectors is None:
        vectors = _encode_images(encoder, paths)
        _keep(kept, vectors)
    named = np.array([path is not None for path in paths], dtype=bool)
    n_lost = int((named & ~vectors.any(axis=1)).sum())
    if n_lost:
        logger.warning("%d of %d images cannot be read: zero vectors", n_lost, named.sum())
    return vectors


def _encode_images(encoder: ImageEncoder, paths: Sequence[Path | None]) -> Vectors:
    readable = [False] * len(paths)
    parts: list[Vectors] = []
    for start in range(0, len(paths), _IMAGE_BATCH):
        images = []
        for at, path in enumerate(paths[start : start + _IMAGE_BATCH], start):
            image = _open(path, encoder.max_side)
            if image is not None:
                readable[at] = True
                images.append(image)
        if images:
            parts.append(encoder.encode(images))
    return _spread(np.concatenate(parts) if parts else None, readable)


def _open(path: Path | None, max_side: int) -> Image.Image | None:
    if path is None:
        return None
    try:
        return open_image(path, max_side=max_side)
    except ImageError as error:
        logger.debug("no content vector: %s", error)
        return None


def _spread(vectors: Vectors | None, present: Sequence[bool]) -> Vectors:
    """Rows in their places, zeros elsewhere; one column of zeros where nothing was encoded."""
    width = 1 if vectors is None else vectors.shape[1]
    spread = np.zeros((len(present), width), dtype=np.float32)
    if vectors is not None:
        spread[np.asarray(present, dtype=bool)] = vectors
    return spread


def _open_text_encoder(name: str) -> TextEncoder:
    if name == "hashing":
        return HashingEncoder()
    from mllm_msr.baselines._content import neural_encoders as neural  # noqa: PLC0415 - loads torch

    return neural.EmbeddedText() if name == "demo" else neural.PretrainedText(name)


def _open_image_encoder(name: str) -> ImageEncoder:
    if name == "colours":
        return ColourEncoder()
    from mllm_msr.baselines._content import neural_encoders as neural  # noqa: PLC0415 - loads torch

    if name == "demo":
        return neural.EmbeddedImage()
    if name.startswith("vgg19:"):
        return neural.Vgg19(Path(name.removeprefix("vgg19:")))
    return neural.PretrainedImage(name)


def _image_hash(path: Path | None) -> str:
    """What a image's vector depends on; constant for one that cannot be read."""
    if path is None:
        return ""
    try:
        return content_hash(path)
    except ImageError:
        return "unreadable"


def _cache_file(cache: Path | None, fingerprint: str, contents: Sequence[str]) -> Path | None:
    if cache is None:
        return None
    digest = hashlib.sha256(fingerprint.encode())
    for content in contents:
        encoded = content.encode("utf-8", errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return Path(cache) / f"{digest.hexdigest()}.safetensors"  # settings bring it as text


def _read(kept: Path | None, *, n_items: int) -> Vectors | None:
    """Vectors of an earlier call; `None` where there are none that can be used."""
    if kept is None or not kept.is_file():
        return None
    try:
        vectors: Vectors = load_file(kept)["vectors"]
    except (OSError, KeyError, SafetensorError) as error:
        logger.warning("vectors at %s cannot be read (%s): made again", kept, error)
        return None
    return vectors if vectors.shape[:1] == (n_items,) else None


def _keep(kept: Path | None, vectors: Vectors) -> None:
    if kept is not None:
        with replace_file(kept) as temporary:
            save_file({"vectors": vectors}, temporary)
