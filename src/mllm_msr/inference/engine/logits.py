"""Hooks on a model's output layer: logits at one position per row, and choices in float32.

Used by `inference/engine/engine.py`. Reading one answer needs the logits of a single position;
computing them for every token of a long prompt would be most of the cost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mllm_msr.models.last_token import can_select_positions, select_positions


@contextlib.contextmanager
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
        with select_positions(model, positions) if in_last_layer else contextlib.nullcontext():
            yield
    finally:
        hook.remove()


@contextlib.contextmanager
def float32_choices(model: Any, ids: Tensor) -> Iterator[None]:
    """Make a model compute the logits of the given tokens in float32.

    Half-precision logits are too coarse to distinguish candidates: near 20, bfloat16 has steps of
    1/8. The logits of the choices are therefore recomputed in float32, before any scaling that the
    model applies to its logits.

    Args:
        model: A causal language model whose output layer receives one position per row.
        ids: Token ids of the choices [batch, choices].
    """

    def refine(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if output.dtype == torch.float32 or type(layer) is not nn.Linear:
            return output.float()
        logits = output.float()  # [batch, 1, vocabulary]
        weight = layer.weight[ids].float()  # [batch, choices, hidden]
        fine = torch.einsum("bh,bch->bc", args[0][:, 0].float(), weight)
        if layer.bias is not None:
            fine = fine + layer.bias[ids].float()
        logits[:, 0] = logits[:, 0].scatter(1, ids, fine)
        return logits

    hook = model.get_output_embeddings().register_forward_hook(refine)
    try:
        yield
    finally:
        hook.remove()
