"""Estimate of the memory that a model takes, from its configuration.

Used by `mllm-msr plan` and compared with measured peaks by `benchmarks/gpu_check`. The estimate
counts tensors on the device: weights, keys and values, intermediate results, and in training the
results that the backward pass needs, gradients and optimizer states. It does not count the library
of the device (about half a gigabyte for CUDA), nor the cache of images.
"""

from __future__ import annotations

import re
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
# Copy of the best weights so far, in float32.
_BYTES_PER_BEST_WEIGHT: Final = 4
# Under autocast, the backward pass keeps a copy of each trained weight in half precision.
_BYTES_PER_CAST_WEIGHT: Final = 2
# Mean size of a result under autocast: inputs of matrix products have half precision, sums and
# norms float32. Measured with SmolLM2-135M in bf16, 12 prompts of 117 tokens: 2.5 bytes if all
# weights are trained, 2.9 with LoRA.
_BYTES_PER_MIXED_RESULT: Final = 3
# Scores and probabilities of attention that is not fused, in float32 and in half precision.
_BYTES_PER_ATTENTION: Final = 6
# Number of a layer in the name of a weight.
_LAYER: Final = re.compile(r"\.layers\.(\d+)\.")


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
    mixed: bool = False,
    keeps_best: bool = False,
    trains_inputs: bool = False,
) -> int:
    """Return the peak memory of fine-tuning.

    Args:
        model: The model, with its trainable weights; its tensors may be on the device "meta".
        dtype: Type of the weights: "float32", "bfloat16" or "float16".
        batch: Tokens of a forward pass; those of shared prefixes count once.
        checkpointing: Whether results within layers are computed again in the backward pass.
        fused: Whether the scores of attention are never stored.
        mixed: Whether autocast computes matrix products, and only these, in half precision.
        keeps_best: Whether a copy of the best weights so far is on the same device.
        trains_inputs: Whether gradients reach the inputs of the first layer, as for collaborative
            tokens.
    """
    sizes = _Sizes.of(model)
    size = _BYTES_PER_MIXED_RESULT if mixed else _BYTES[dtype]
    layer = size * batch.n_tokens * sizes.saved_per_token
    if not fused:
        layer += _attention_bytes(sizes, batch)
    per_layer = size * batch.n_tokens * sizes.hidden if checkpointing else layer
    first = 0 if trains_inputs else _first_trained_layer(model)
    kept = (sizes.layers - first) * per_layer
    logits = 8 * batch.n_rows * sizes.vocabulary  # with their gradient
    n_trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    per_weight = _BYTES_PER_TRAINED_WEIGHT
    per_weight += _BYTES_PER_CAST_WEIGHT if mixed else 0
    per_weight += _BYTES_PER_BEST_WEIGHT if keeps_best else 0
    # One more layer for the gradients of the results of the layer that the backward pass is at.
    return round(weight_bytes(model, dtype) + n_trained * per_weight + kept + layer + logits)


def _first_trained_layer(model: nn.Module) -> int:
    """Return the number of the first layer with a trained weight; layers before it keep nothing.

    It is 0 if only weights outside the layers are trained, such as a projector.
    """
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    return min((int(found[1]) for name in names if (found := _LAYER.search(name))), default=0)


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
