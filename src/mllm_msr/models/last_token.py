"""The last decoder layer, computed at one selected position per row.

Training on answers, scoring, and prefill before generation read the model's output at one position
of each row. Lower layers must run at every position, since later tokens attend to earlier ones. In
the last layer, the other positions only contribute keys and values. Skipping the rest of their
computation saves a fifth of the work of the demo model (4 layers) and does not change the
result. Logits are computed at these positions for every model: for every token of a long prompt,
they would be most of the cost. Used by the inference engine and by training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer

_ATTENTION: Final = frozenset({"blocked", "eager", "sdpa"})


def can_select_positions(model: nn.Module) -> bool:
    """Return whether `select_positions` supports a model.

    True for the decoders it is tested with: Llama, and Mistral without a sliding window, which use
    only a causal mask. Gradient checkpointing is not supported, since it drops the arguments that
    the layer receives. A cache that is passed in must be a `DynamicCache`.

    Args:
        model: A causal language model of Transformers, possibly wrapped by PEFT.
    """
    decoder = _decoder(model)
    layers = getattr(decoder, "layers", None)
    return (
        layers is not None
        and isinstance(layers[-1], LlamaDecoderLayer | MistralDecoderLayer)
        and getattr(decoder.config, "sliding_window", None) is None
        and decoder.config._attn_implementation in _ATTENTION  # noqa: SLF001 - no public name
        and not getattr(layers[-1], "gradient_checkpointing", False)
    )


@contextmanager
def select_positions(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Make a model compute logits at one position per row: [batch, 1, vocabulary].

    Args:
        model: A model that `can_select_positions` accepts. Its inputs are padded on the right, or
            between the cached tokens and the new ones.
        positions: Position of each row among the new tokens [batch].
    """
    rows = torch.arange(len(positions), device=positions.device)

    def select(
        layer: Any, arguments: tuple[Tensor, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        hidden = arguments[0]  # [batch, length, hidden]
        rotary = tuple(part.expand(len(rows), -1, -1) for part in keywords["position_embeddings"])
        keys, values = _keys_and_values(layer, hidden, rotary)
        cache = keywords.get("past_key_values")
        if cache is not None:
            keys, values = cache.update(keys, values, layer.self_attn.layer_idx)
        keywords = {
            **keywords,
            "attention_mask": _mask(
                keywords.get("attention_mask"), positions, keys, n_new=hidden.shape[1]
            ),
            "position_embeddings": tuple(part[rows, positions].unsqueeze(1) for part in rotary),
            "past_key_values": _FixedCache(keys, values),
        }
        return (hidden[rows, positions].unsqueeze(1),), keywords

    hook = _decoder(model).layers[-1].register_forward_pre_hook(select, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def logits_at(model: Any, positions: Tensor) -> Iterator[None]:
    """Make a model compute logits at one position per row: [batch, 1, vocabulary].

    Args:
        model: A causal language model. Its inputs are padded on the right.
        positions: Position of each row [batch].
    """
    rows = torch.arange(len(positions), device=positions.device)
    in_last_layer = can_select_positions(model)

    def select(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = arguments[0]  # [batch, length or 1, hidden]
        selected = hidden[:, 0] if in_last_layer else hidden[rows, positions]
        return (selected.unsqueeze(1), *arguments[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        with select_positions(model, positions) if in_last_layer else nullcontext():
            yield
    finally:
        hook.remove()


def _decoder(model: nn.Module) -> Any:
    get_decoder: Any = getattr(model, "get_decoder", None)
    return get_decoder() if get_decoder is not None else None


def _keys_and_values(layer: Any, hidden: Tensor, rotary: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Compute the keys and values of every token, each [batch, heads, length, head size]."""
    attention = layer.self_attn
    states = layer.input_layernorm(hidden)
    keys, values = (
        project(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.k_proj, attention.v_proj)
    )
    _, keys = apply_rotary_pos_emb(keys, keys, *rotary)
    return keys, values


def _mask(mask: Tensor | None, positions: Tensor, keys: Tensor, *, n_new: int) -> Tensor:
    """Return the additive attention mask of the selected positions [batch, 1, 1, length].

    Args:
        mask: The mask that the layer received [batch or 1, 1, queries, length], if any.
        positions: Position of each row among the new tokens [batch].
        keys: Keys of all tokens [batch, heads, length, head size].
        n_new: How many of the tokens, at the end, are new.
    """
    if mask is not None:
        rows = torch.arange(len(positions), device=mask.device)
        return mask.expand(len(positions), -1, -1, -1)[rows, :, positions].unsqueeze(2)
    indices = torch.arange(keys.shape[2], device=keys.device)
    hidden = indices > (keys.shape[2] - n_new + positions).unsqueeze(1)
    causal = keys.new_zeros(hidden.shape).masked_fill(hidden, torch.finfo(keys.dtype).min)
    return causal[:, None, None]


class _FixedCache:
    """Cache whose keys and values already include those of the current layer call."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._states = keys, values

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values to attend to; the arguments are part of them."""
        del keys, values, layer_idx
        return self._states
