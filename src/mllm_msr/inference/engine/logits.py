"""Which logits a model computes: those of one place of each row, and of the choices precisely.

Range `_engine.py`, which asks, and the model, whose output layer alone is watched: a row of it
for each token of the vocabulary is most of what it costs to read an answer from a long prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mllm_msr.models.last_token import can_select_positions, select_positions


@contextlib.contextmanager
def last_places(model: Any, last: Tensor) -> Iterator[None]:
    """Let a model answer for one place of each row alone: its logits are [batch, 1, vocabulary].

    Args:
        model: A causal language model; its inputs are padded on the right.
        last: The place of each row [batch].
    """
    rows = torch.arange(len(last), device=last.device)
    short = can_select_positions(model)

    def pick(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = arguments[0]  # [batch, length or 1, hidden]
        picked = hidden[:, 0] if short else hidden[rows, last]
        return (picked.unsqueeze(1), *arguments[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        with select_positions(model, last) if short else contextlib.nullcontext():
            yield
    finally:
        hook.remove()


@contextlib.contextmanager
def precise_choices(model: Any, ids: Tensor) -> Iterator[None]:
    """Let a model compute the logits of some tokens precisely.

    In half precision logits are too coarse to tell candidates apart (near 20, bfloat16 has steps of
    1/8), so those of the choices are computed again in float32, before whatever scaling the model
    applies to its logits.

    Args:
        model: A causal language model whose output layer sees one place of each row.
        ids: The choices' token ids [batch, choices].
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
