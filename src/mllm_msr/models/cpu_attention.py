"""Attention for CPUs with bfloat16 that keeps the scores of some heads in the processor's cache.

Of the implementations in Transformers, "eager" writes the scores of all heads and prompts to memory
several times: a tower with 1,024 patches per image spends most of its time there. "sdpa" uses the
matrix unit of a processor (AMX) and is the fastest there. Without such a unit, it is twice as slow
in bfloat16 as the products that it consists of, and slower still for one query token. Here, large
scores are computed for as many heads at a time as fit into the cache. The results and their
gradients are those of "eager".
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.models.llama.modeling_llama import repeat_kv

from mllm_msr.models import cpu_runtime
from mllm_msr.types import Attention

# Name of the implementation, see `types.Attention`.
NAME: Final[Attention] = "blocked"

# Float32 scores of one block, and of all heads and prompts from which on there are blocks: about
# the caches of levels 2 and 3. Dividing smaller scores costs more than it saves.
_BLOCK_BYTES: Final = 4 * 2**20
_MIN_BYTES: Final = 16 * 2**20


def fastest() -> Attention:
    """Return the fastest implementation for inference in bfloat16 on this processor."""
    return "auto" if cpu_runtime.has_matrix_unit() else NAME


def attend(  # noqa: PLR0917 - the signature that Transformers calls
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention; the function that Transformers calls in each layer.

    Args:
        module: The layer.
        query: [batch, heads, queries, size].
        key: [batch, key heads, keys, size]; the number of heads is a multiple of key heads.
        value: [batch, key heads, keys, size of values].
        attention_mask: Added to the scores: [batch or 1, 1, queries, keys]; None for no mask.
        scaling: Factor of the scores; by default one over the root of the size.
        dropout: Dropout of the shares in training.
        softcap: Bound of the scores, by a scaled hyperbolic tangent.
        kwargs: Other arguments of Transformers. The mask contains what they say.

    Returns:
        [batch, queries, heads, size of values], and None in place of the shares.
    """
    del kwargs
    batch, n_heads, n_queries, size = query.shape
    if n_heads > key.shape[1]:
        key, value = (repeat_kv(each, n_heads // key.shape[1]) for each in (key, value))

    def attend_to(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None) -> Tensor:
        scores = torch.matmul(q, k.transpose(-1, -2)) * (scaling or size**-0.5)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if mask is not None:
            scores = scores + mask
        shares = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        shares = nn.functional.dropout(shares, p=dropout, training=module.training)
        return torch.matmul(shares, v)

    n_bytes = 4 * n_queries * key.shape[2]  # of one head
    if batch * n_heads * n_bytes <= _MIN_BYTES:
        return attend_to(query, key, value, mask=attention_mask).transpose(1, 2).contiguous(), None
    step = max(1, _BLOCK_BYTES // n_bytes)
    rows = []
    for row, (q, k, v) in enumerate(zip(query.unbind(), key.unbind(), value.unbind(), strict=True)):
        mask = attention_mask
        if mask is not None:
            mask = mask[row if len(mask) > 1 else 0]
        blocks = zip(*(torch.split(each, step) for each in (q, k, v)), strict=True)
        rows.append(torch.cat([attend_to(*block, mask=mask) for block in blocks]))
    return torch.stack(rows).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)
