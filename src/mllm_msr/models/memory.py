"""Estimate of the memory that a model takes, from its configuration.

Used by `mllm-msr plan` and compared with measured peaks by `benchmarks/gpu_check`. The estimate
counts tensors on the device: weights, keys and values, intermediate results, and in training the
results that the backward pass needs, gradients and optimizer states. It does not count the library
of the device (about half a gigabyte for CUDA), nor the cache of images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import transformers
from torch import nn

from mllm_msr.models.processors import reads_images

_BYTES: Final = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
# Weights in NF4 and the scale of each block of 64 weights.
_BYTES_4BIT: Final = 0.5 + 4 / 64
# Gradient and two moments of AdamW, in float32.
_BYTES_PER_TRAINED_WEIGHT: Final = 12
# Scores and probabilities of attention that is not fused, in float32 and in half precision.
_BYTES_PER_ATTENTION: Final = 6


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens that a model processes at a time.

    Attributes:
        n_tokens: Tokens of all prompts, with padding.
        length: Tokens of the longest prompt.
    """

    n_tokens: int
    length: int

    @property
    def n_rows(self) -> int:
        """Return the number of prompts."""
        return -(-self.n_tokens // max(1, self.length))


def empty_model(config: Any) -> Any:
    """Return a model on the device "meta": its layers and sizes, without memory for weights.

    Args:
        config: Configuration of the model.
    """
    loader = transformers.AutoModelForCausalLM
    if reads_images(config):
        loader = transformers.AutoModelForImageTextToText
    with torch.device("meta"):
        return loader.from_config(config)


def weight_bytes(model: nn.Module, dtype: str) -> int:
    """Return the memory of a model's weights.

    Args:
        model: The model; its tensors may be on the device "meta".
        dtype: "float32", "bfloat16", "float16" or "4bit".
    """
    if dtype != "4bit":
        return round(sum(weight.numel() for weight in model.parameters()) * _BYTES[dtype])
    output = getattr(model, "lm_head", None)
    quantized = sum(
        part.weight.numel()
        for part in model.modules()
        if isinstance(part, nn.Linear) and part is not output
    )
    others = sum(weight.numel() for weight in model.parameters()) - quantized
    return round(quantized * _BYTES_4BIT + others * _BYTES["bfloat16"])


def inference_bytes(model: nn.Module, dtype: str, batch: Batch, *, fused: bool = True) -> int:
    """Return the peak memory of scoring or generation.

    Args:
        model: The model; its tensors may be on the device "meta".
        dtype: "float32", "bfloat16", "float16" or "4bit".
        batch: The largest batch, including the tokens that are generated.
        fused: Whether the scores of attention are never stored.
    """
    sizes = _Sizes.of(model)
    size = _BYTES.get(dtype, 2.0)
    states = batch.n_tokens * sizes.layers * 2 * sizes.keys
    layer = batch.n_tokens * sizes.saved_per_token
    logits = batch.n_rows * sizes.vocabulary
    total = weight_bytes(model, dtype) + size * (states + layer) + 4 * logits
    return round(total + (0 if fused else _attention_bytes(sizes, batch)))


def training_bytes(
    model: nn.Module,
    dtype: str,
    batch: Batch,
    *,
    checkpointing: bool,
    fused: bool = True,
) -> int:
    """Return the peak memory of fine-tuning, if no prompts share a prefix.

    Args:
        model: The model, with its trainable weights; its tensors may be on the device "meta".
        dtype: "float32", "bfloat16" or "float16".
        batch: Tokens of a forward pass.
        checkpointing: Whether results within layers are computed again in the backward pass.
        fused: Whether the scores of attention are never stored.
    """
    sizes = _Sizes.of(model)
    size = _BYTES[dtype]
    layer = size * batch.n_tokens * sizes.saved_per_token
    if not fused:
        layer += _attention_bytes(sizes, batch)
    kept = sizes.layers * (size * batch.n_tokens * sizes.hidden if checkpointing else layer)
    logits = 8 * batch.n_rows * sizes.vocabulary  # with their gradient
    n_trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    trained = n_trained * _BYTES_PER_TRAINED_WEIGHT
    # One more layer for the gradients of the results of the layer that the backward pass is at.
    return round(weight_bytes(model, dtype) + trained + kept + layer + logits)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Sizes of a decoder.

    Attributes:
        hidden: Hidden size.
        inner: Hidden size of the feed-forward layers.
        layers: Number of layers.
        heads: Number of attention heads.
        queries: Size of the queries of a token.
        keys: Size of the keys of a token, and of the values.
        vocabulary: Number of logits.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    queries: int
    keys: int
    vocabulary: int

    @classmethod
    def of(cls, model: Any) -> _Sizes:
        text = model.config.get_text_config()
        heads = text.num_attention_heads
        head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
        key_heads = getattr(text, "num_key_value_heads", None) or heads
        return cls(
            hidden=text.hidden_size,
            inner=text.intermediate_size,
            layers=text.num_hidden_layers,
            heads=heads,
            queries=heads * head_size,
            keys=key_heads * head_size,
            vocabulary=text.vocab_size,
        )

    @property
    def saved_per_token(self) -> int:
        """Return how many numbers per token and layer the backward pass needs.

        Inputs and outputs of norms (some in float32), projections, rotations and attention; gate,
        its activation, the other half and their product.
        """
        return 6 * self.hidden + 4 * (self.queries + self.keys) + 4 * self.inner


def _attention_bytes(sizes: _Sizes, batch: Batch) -> float:
    return _BYTES_PER_ATTENTION * batch.n_tokens * batch.length * sizes.heads
