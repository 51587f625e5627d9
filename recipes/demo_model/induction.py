"""A start for copying: attention heads that can repeat what stands in the text, set by hand.

Part of the packaged model's initial weights. Repeating a name takes two heads in a row: one that
looks one token back, and one that finds the place where the present token stood before and takes
what followed it ("induction heads", Olsson et al. 2022, arXiv:2209.11895). A small model finds
them late or never; here some heads start as such a pair and training bends them as it likes.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

# How sharply the first head looks one token back, and the others look for their own token; how
# loudly each writes to the residual stream. Found by trial: the untrained model then repeats
# about half of a text of random tokens.
_BACK: Final = 7.0
_MATCH: Final = 3.0
_TAG: Final = 1.5
_COPY: Final = 3.0
_N_COPYING: Final = 3


def can_copy(config: Any) -> bool:
    """Whether a decoder is large enough for `start_copying`: two layers of four heads."""
    return bool(config.num_hidden_layers > 1 and config.num_attention_heads > _N_COPYING)


def start_copying(decoder: Any) -> None:
    """Set one head of the first layer and three of the second, in place.

    Args:
        decoder: A Llama decoder with biases in its attention; `can_copy` holds for its
            configuration.
    """
    first, second = (layer.self_attn for layer in decoder.layers[:2])
    size = first.head_dim
    rates = decoder.rotary_emb.inv_freq.float()  # [size / 2]
    width = first.q_proj.in_features
    with torch.no_grad():
        read, write = _rows(size, width), _rows(size, width)
        _look_back(first, rates)
        first.v_proj.weight[:size] = read
        first.o_proj.weight[:, :size] = _TAG * write.T
        # Rotary positions hardly turn the second half of the pairs: what is equal stays equal.
        slow = torch.arange(size // 4, size // 2)
        dims = torch.cat([slow, slow + size // 2])
        for head in range(_N_COPYING):
            rows = (torch.arange(len(dims)) + head * len(dims)) % size
            _match(second, head, dims, read[rows], write[rows])
            values = _rows(size, width)
            place = slice(head * size, (head + 1) * size)
            second.v_proj.weight[place] = values
            second.o_proj.weight[:, place] = _COPY * values.T


def _look_back(attention: Any, rates: Tensor) -> None:
    # Constant queries and keys, turned against each other by the distance of one token.
    half = len(rates)
    attention.q_proj.weight[: 2 * half] = 0
    attention.k_proj.weight[: 2 * half] = 0
    attention.q_proj.bias[: 2 * half] = _BACK * torch.cat([rates.cos(), -rates.sin()])
    attention.k_proj.bias[: 2 * half] = _BACK * torch.cat([torch.ones(half), torch.zeros(half)])


def _match(attention: Any, head: int, dims: Tensor, token: Tensor, tag: Tensor) -> None:
    places = dims + head * attention.head_dim
    for projection, rows in ((attention.q_proj, token), (attention.k_proj, tag)):
        projection.weight[head * attention.head_dim : (head + 1) * attention.head_dim] = 0
        projection.weight[places] = _MATCH * rows


def _rows(n: int, width: int) -> Tensor:
    columns: Tensor = torch.linalg.qr(torch.randn(width, n))[0]
    return columns.T  # [n, width], orthonormal
