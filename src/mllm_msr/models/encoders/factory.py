"""Encoders by the names that settings use.

A name is that of a file in `text/` or `image/` (with "-" for "_"), which contains one encoder class
and is imported only when it is opened; a new encoder is one new file. What follows a colon is the
argument of the class (`vgg19:FILE`). All other names are checkpoints of Transformers: a folder or a
hub id with an optional `@revision`, such as `bert-base-uncased` or `Qwen/Qwen3-VL-Embedding-2B` for
texts, and CLIP, SigLIP, ViT, ResNet and others for images.

`hashing` and `colors`, the defaults, need neither weights nor torch.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any, Final

from mllm_msr.models.encoders.base import ImageEncoder, Modality, TextEncoder, encoder_names
from mllm_msr.models.encoders.lsa import LsaEncoder
from mllm_msr.storage.artifact_cache import ArtifactCache

HASHING: Final = "hashing"


def open_text_encoder(name: str) -> TextEncoder:
    """Open a text encoder for a fixed catalog.

    Args:
        name: A name of `encoder_names("text")`, or a checkpoint.

    Raises:
        BackendError: There is no such encoder, or its package is not installed.
    """
    encoder: TextEncoder = _open("text", name)
    return encoder


def open_image_encoder(name: str) -> ImageEncoder:
    """Open an image encoder.

    Args:
        name: A name of `encoder_names("image")`, "vgg19:FILE", or a checkpoint.

    Raises:
        BackendError: There is no such encoder, or its package is not installed.
    """
    encoder: ImageEncoder = _open("image", name)
    return encoder


def open_retrieval_encoder(
    name: str, corpus: Sequence[str], *, artifact_cache: ArtifactCache | None = None
) -> TextEncoder:
    """Open a text encoder whose vectors are comparable across calls.

    The vectors have unit length, so that their inner product is the cosine similarity. A text
    without content gets a zero row.

    Args:
        name: "hashing" for latent semantic analysis of the corpus, an encoder with the attribute
            `for_retrieval`, or a checkpoint.
        corpus: Texts that "hashing" is fitted on.
        artifact_cache: Cache for the directions that "hashing" computes from the corpus.

    Raises:
        BackendError: There is no such encoder, or its weights cannot be loaded.
    """
    if name == HASHING:
        return LsaEncoder(corpus, artifact_cache=artifact_cache)
    encoder: Any
    if name in encoder_names("text") and getattr(_class("text", name), "for_retrieval", False):
        encoder = open_text_encoder(name)
    else:
        # Run it on the CPU, since the ranker occupies the accelerator.
        encoder = _module("transformers_text").TransformersTextEncoder(
            name, unit_length=True, dtype="auto", device="cpu"
        )
    # Load the weights now, so that the first query does not wait for them.
    encoder.load()
    opened: TextEncoder = encoder
    return opened


def _open(modality: Modality, name: str) -> Any:
    kind, colon, argument = name.partition(":")
    if kind in encoder_names(modality):
        encoder, arguments = _class(modality, kind), [argument] if colon else []
        try:
            inspect.signature(encoder).bind(*arguments)
        except TypeError:
            need = "no argument" if colon else f"an argument, as in {kind}:FILE"
            raise _module("checkpoint").unusable_encoder(name, f"it takes {need}") from None
        return encoder(*arguments)
    kind = {"text": "TransformersTextEncoder", "image": "TransformersImageEncoder"}[modality]
    return getattr(_module(f"transformers_{modality}"), kind)(name)


def _class(modality: Modality, name: str) -> type:
    """Return the one public class of an encoder's file."""
    module = _module(f"{modality}.{name.replace('-', '_')}")
    (found,) = (
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and member.__module__ == module.__name__
        and hasattr(member, "encode")
    )
    return found


def _module(name: str) -> Any:
    """Import a module of this package, which may load torch."""
    return importlib.import_module(f"mllm_msr.models.encoders.{name}")
