"""The decoder's last layer, run only where its result is read.

Training on answers, scoring and the first pass over a prompt read one place of each row. Lower
layers must run everywhere, since later tokens look at earlier ones; of the last layer, the other
tokens are asked for keys and values alone. That is a fifth of the packaged model's work (4
layers), and the same result. `recommender.forward` and the backends' engine use it where the model
allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer

_ATTENTION: Final = frozenset({"eager", "sdpa"})


def can_shorten(model: nn.Module) -> bool:
    """Whether the last layer may be run for one place of each row.

    Said of the decoders for which it is tested: those of Llama and of Mistral without a window,
    which need no mask but the causal one. Gradient checkpointing drops what the layer is handed.
    A cache that is handed over must be one that grows (`DynamicCache`).

    Args:
        model: A causal language model of Transformers, perhaps wrapped by PEFT.
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
def answering_at(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Let a model answer for one place of each row alone: its logits are [batch, 1, vocabulary].

    Args:
        model: One for which `can_shorten` holds; its inputs are padded on the right, or between
            what a cache holds and what follows it.
        positions: The place of each row [batch].
    """
    rows = torch.arange(len(positions), device=positions.device)

    def shorten(
        layer: Any, arguments: tuple[Tensor, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        hidden = arguments[0]  # [batch, length, hidden]
        turns = tuple(turn.expand(len(rows), -1, -1) for turn in keywords["position_embeddings"])
        keys, values = _keys_and_values(layer, hidden, turns)
        earlier = keywords.get("past_key_values")
        if earlier is not None:
            keys, values = earlier.update(keys, values, layer.self_attn.layer_idx)
        keywords = {
            **keywords,
            "attention_mask": _mask(
                keywords.get("attention_mask"), positions, keys, n_new=hidden.shape[1]
            ),
            "position_embeddings": tuple(turn[rows, positions].unsqueeze(1) for turn in turns),
            "past_key_values": _Complete(keys, values),
        }
        return (hidden[rows, positions].unsqueeze(1),), keywords

    hook = _decoder(model).layers[-1].register_forward_pre_hook(shorten, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _decoder(model: nn.Module) -> Any:
    get_decoder: Any = getattr(model, "get_decoder", None)
    return get_decoder() if get_decoder is not None else None


def _keys_and_values(layer: Any, hidden: Tensor, turns: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What the layer's attention computes of every token: two of [batch, heads, length, size]."""
    attention = layer.self_attn
    states = layer.input_layernorm(hidden)
    keys, values = (
        project(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.k_proj, attention.v_proj)
    )
    _, keys = apply_rotary_pos_emb(keys, keys, *turns)
    return keys, values


def _mask(whole: Tensor | None, positions: Tensor, keys: Tensor, *, n_new: int) -> Tensor:
    """What a place of each row may look at: [batch, 1, 1, length].

    Args:
        whole: The mask that the layer was given [batch or 1, 1, places, length], if any.
        positions: The place of each row [batch].
        keys: Keys that can be looked at [batch, heads, length, size].
        n_new: How many of them, the latest, the layer was given now; places count these.
    """
    if whole is not None:
        rows = torch.arange(len(positions), device=whole.device)
        return whole.expand(len(positions), -1, -1, -1)[rows, :, positions].unsqueeze(2)
    places = torch.arange(keys.shape[2], device=keys.device)
    unseen = places > (keys.shape[2] - n_new + positions).unsqueeze(1)
    mask = keys.new_zeros(unseen.shape).masked_fill(unseen, torch.finfo(keys.dtype).min)
    return mask[:, None, None]


class _Complete:
    """Stands where a cache does: the keys and values of all tokens, the layer's own included."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._both = keys, values

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """What attention looks at."""
        del keys, values, layer_idx
        return self._both
