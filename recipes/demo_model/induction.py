"""Initial weights for copying: hand-set attention heads that repeat earlier text.

Repeating a name takes two heads in a row: a previous-token head, and an induction head, which finds
the earlier occurrence of the current token and attends to the token after it (Olsson et al. 2022,
arXiv:2209.11895). A small model learns such heads late or never, so some heads are initialized as
such pairs; training may change them.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

# Scales of the hand-set weights, found by trial and error: with them, the untrained model repeats
# about half of a text of random tokens.
_PREVIOUS_SHARPNESS: Final = 7.0  # attention of the previous-token head
_MATCH_SHARPNESS: Final = 3.0  # attention of the induction heads
_PREVIOUS_OUTPUT: Final = 1.5  # output of the previous-token head
_COPY_OUTPUT: Final = 3.0  # output of the induction heads
_N_INDUCTION_HEADS: Final = 3


def can_copy(config: Any) -> bool:
    """Return whether a decoder has enough layers (2) and heads (4) for `start_copying`."""
    return bool(config.num_hidden_layers > 1 and config.num_attention_heads > _N_INDUCTION_HEADS)


def start_copying(decoder: Any) -> None:
    """Set a previous-token head in the first layer and three induction heads in the second.

    Args:
        decoder: A Llama decoder with attention biases, changed in place. `can_copy` must be true
            for its configuration.
    """
    first, second = (layer.self_attn for layer in decoder.layers[:2])
    size = first.head_dim
    rates = decoder.rotary_emb.inv_freq.float()  # [size / 2]
    width = first.q_proj.in_features
    with torch.no_grad():
        # The previous-token head reads the token with `read` and stores it with `write`.
        read, write = _orthonormal_rows(size, width), _orthonormal_rows(size, width)
        _set_previous_token_attention(first, rates)
        first.v_proj.weight[:size] = read
        first.o_proj.weight[:, :size] = _PREVIOUS_OUTPUT * write.T
        # Rotary embeddings hardly rotate the second half of the pairs, so equal content stays equal
        # there at any distance.
        slow = torch.arange(size // 4, size // 2)
        dims = torch.cat([slow, slow + size // 2])
        for head in range(_N_INDUCTION_HEADS):
            # The query is the current token; the key is the token before each position.
            rows = (torch.arange(len(dims)) + head * len(dims)) % size
            _set_match_attention(second, head, dims, read[rows], write[rows])
            values = _orthonormal_rows(size, width)
            head_rows = slice(head * size, (head + 1) * size)
            second.v_proj.weight[head_rows] = values
            second.o_proj.weight[:, head_rows] = _COPY_OUTPUT * values.T


def _set_previous_token_attention(attention: Any, rates: Tensor) -> None:
    """Make the first head attend to the previous token.

    Queries and keys are constants, rotated against each other by the distance of one token.
    """
    half = len(rates)
    attention.q_proj.weight[: 2 * half] = 0
    attention.k_proj.weight[: 2 * half] = 0
    query = torch.cat([rates.cos(), -rates.sin()])
    key = torch.cat([torch.ones(half), torch.zeros(half)])
    attention.q_proj.bias[: 2 * half] = _PREVIOUS_SHARPNESS * query
    attention.k_proj.bias[: 2 * half] = _PREVIOUS_SHARPNESS * key


def _set_match_attention(
    attention: Any, head: int, dims: Tensor, query: Tensor, key: Tensor
) -> None:
    """Make a head attend to positions whose key projection equals its query projection."""
    head_rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
    for projection, rows in ((attention.q_proj, query), (attention.k_proj, key)):
        projection.weight[head_rows] = 0
        projection.weight[dims + head * attention.head_dim] = _MATCH_SHARPNESS * rows


def _orthonormal_rows(n: int, width: int) -> Tensor:
    """Draw n random orthonormal rows, shape [n, width]."""
    columns: Tensor = torch.linalg.qr(torch.randn(width, n))[0]
    return columns.T
