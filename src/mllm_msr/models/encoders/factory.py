"""Encoders by the names that settings use.

    text    `hashing`       hashed TF-IDF of words and character n-grams, 128 dimensions
            `demo`          the demo model's language part; only useful for its own data
            a checkpoint    any text encoder of Transformers, such as `bert-base-uncased` or
                            `Qwen/Qwen3-VL-Embedding-2B`: a folder or a hub id with an optional
                            `@revision`
    image   `colors`        color and edge statistics, 157 dimensions; does not recognize objects
            `demo`          the demo model's vision part
            `vgg19:FILE`    VGG19's second dense layer, 4,096 dimensions; safetensors weights under
                            the names of torchvision
            a checkpoint    any image encoder of Transformers: CLIP, SigLIP, ViT, ResNet, ...

`hashing` and `colors` need neither weights nor torch; the modules of the other encoders are
imported only when such an encoder is opened.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from mllm_msr.models.encoders.base import ImageEncoder, TextEncoder
from mllm_msr.models.encoders.colors import ColorEncoder
from mllm_msr.models.encoders.hashing import HashingEncoder
from mllm_msr.models.encoders.lsa import LsaEncoder
from mllm_msr.storage.artifact_cache import ArtifactCache

HASHING: Final = "hashing"
COLORS: Final = "colors"
DEMO: Final = "demo"
_VGG19: Final = "vgg19:"


def open_text_encoder(name: str) -> TextEncoder:
    """Open a text encoder for a fixed catalog.

    Args:
        name: "hashing", "demo" or a checkpoint.

    Raises:
        BackendError: There is no such encoder.
    """
    if name == HASHING:
        return HashingEncoder()
    encoder: TextEncoder = (
        _module("demo").DemoTextEncoder()
        if name == DEMO
        else _module("transformers_text").TransformersTextEncoder(name)
    )
    return encoder


def open_image_encoder(name: str) -> ImageEncoder:
    """Open an image encoder.

    Args:
        name: "colors", "demo", "vgg19:FILE" or a checkpoint.

    Raises:
        BackendError: There is no such encoder.
    """
    if name == COLORS:
        return ColorEncoder()
    encoder: ImageEncoder
    if name == DEMO:
        encoder = _module("demo").DemoImageEncoder()
    elif name.startswith(_VGG19):
        encoder = _module("vgg19").Vgg19Encoder(Path(name.removeprefix(_VGG19)))
    else:
        encoder = _module("transformers_image").TransformersImageEncoder(name)
    return encoder


def open_retrieval_encoder(
    name: str, corpus: Sequence[str], *, artifact_cache: ArtifactCache | None = None
) -> TextEncoder:
    """Open a text encoder whose vectors are comparable across calls.

    The vectors have unit length, so that their inner product is the cosine similarity. A text
    without content gets a zero row.

    Args:
        name: "hashing" for latent semantic analysis of the corpus, or a checkpoint.
        corpus: Texts that "hashing" is fitted on.
        artifact_cache: Cache for the directions that "hashing" computes from the corpus.

    Raises:
        BackendError: There is no such checkpoint, or its weights cannot be loaded.
    """
    if name == HASHING:
        return LsaEncoder(corpus, artifact_cache=artifact_cache)
    # Run it on the CPU, since the ranker occupies the accelerator.
    encoder = _module("transformers_text").TransformersTextEncoder(
        name, unit_length=True, dtype="auto", device="cpu"
    )
    # Load the weights now, so that the first query does not wait for them.
    encoder.load()
    opened: TextEncoder = encoder
    return opened


def _module(name: str) -> Any:
    """Import a module of this package that loads torch."""
    return importlib.import_module(f"mllm_msr.models.encoders.{name}")
