"""Hook on a model's output layer that computes the logits of choices in float32.

Used by `inference/engine/engine.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


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
