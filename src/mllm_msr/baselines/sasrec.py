"""SASRec: causal self-attention over the history (Kang & McAuley 2018).

Scaled item embeddings plus learned position embeddings, pre-norm blocks of causal attention and a
feed-forward layer, a final layer norm, and the inner product with the same item embeddings.
Positions count from the oldest item that is used, so a prefix of a training history and the same
history in scoring are the same input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mllm_msr.baselines._sequences.item_embeddings import IdEmbedding, ItemEmbedding
from mllm_msr.baselines._sequences.sequence_baseline import SequenceBaseline
from mllm_msr.baselines._sequences.sequence_model import SequenceNetwork
from mllm_msr.baselines._training.checks import not_a_fraction
from mllm_msr.baselines._training.histories import HistoryBatch
from mllm_msr.search_space import Choice, Range, Space


@final
@dataclass(kw_only=True, eq=False)
class SasRec(SequenceBaseline):
    """Recommender with self-attention over the item ids of the history.

    Attributes:
        hidden: Size of the item embeddings and of all states, d, at least 1.
        n_blocks: Transformer blocks, at least 1.
        n_heads: Attention heads, at least 1; must divide `hidden`.
        dropout: Dropout probability, in [0, 1).
    """

    label: ClassVar[str] = "SASRec"

    hidden: int = 64
    n_blocks: int = 2
    n_heads: int = 2
    dropout: float = 0.3

    @classmethod
    def space(cls) -> Space:
        """Return the search space of `mllm-msr tune`."""
        return {
            "hidden": Choice((64, 128)),
            "n_blocks": Range(1, 3),
            "dropout": Range(0.1, 0.6),
            "learning_rate": Range(2e-4, 5e-3, log=True),
            "negative_power": Range(0.0, 1.0),
        }

    def build_network(self, n_warm: int, content: Mapping[str, Tensor]) -> SequenceNetwork:  # noqa: ARG002 - ids only
        """Build the encoder over id embeddings."""
        return SasRecNetwork(
            IdEmbedding(n_warm + 1, self.hidden),
            hidden=self.hidden,
            n_blocks=self.n_blocks,
            n_heads=self.n_heads,
            dropout=self.dropout,
            max_length=self.max_length,
        )

    def own_problems(self) -> list[str]:
        """Return one sentence for each setting that is out of range."""
        return [
            *attention_problems(self.hidden, n_blocks=self.n_blocks, n_heads=self.n_heads),
            *not_a_fraction(self, "dropout"),
        ]


class SasRecNetwork(SequenceNetwork):
    """Network with item and position embeddings and a causal transformer.

    Args:
        items: Item embeddings of size d.
        hidden: d.
        n_blocks: Transformer blocks.
        n_heads: Attention heads.
        dropout: Dropout probability.
        max_length: Length of the longest history.
    """

    def __init__(
        self,
        items: ItemEmbedding,
        *,
        hidden: int,
        n_blocks: int,
        n_heads: int,
        dropout: float,
        max_length: int,
    ) -> None:
        super().__init__()
        self.items = items
        self.positions = nn.Embedding(max_length, hidden)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(hidden, n_heads=n_heads, dropout=dropout) for _ in range(n_blocks)
        )
        self.norm = nn.LayerNorm(hidden)
        nn.init.xavier_normal_(self.positions.weight)

    def forward(self, batch: HistoryBatch) -> Tensor:
        """Compute the state after each token, [n_tokens, d]."""
        states = self.items(batch.items) * math.sqrt(self.positions.embedding_dim)
        states = self.dropout(states + self.positions(batch.positions))
        groups = batch.groups
        for block in self.blocks:
            states = block(states, groups)
        normed: Tensor = self.norm(states)
        return normed

    def table(self) -> Tensor:
        """Return the item embeddings, [n_codes, d]."""
        return self.items.table()


class Block(nn.Module):
    """Pre-norm transformer block: causal attention and a feed-forward layer, both residual."""

    def __init__(self, hidden: int, *, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden)
        self.attention = CausalAttention(hidden, n_heads=n_heads)
        self.feed_forward_norm = nn.LayerNorm(hidden)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden, 4 * hidden),
            nn.GELU(),
            nn.Linear(4 * hidden, hidden),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        """Apply the block to states [n_tokens, d]; `groups` as in `HistoryBatch`."""
        states = states + self.dropout(self.attention(self.attention_norm(states), groups))
        update = self.feed_forward(self.feed_forward_norm(states))
        new_states: Tensor = states + self.dropout(update)
        return new_states


class CausalAttention(nn.Module):
    """Multi-head attention of each token to itself and the earlier tokens of its history."""

    def __init__(self, hidden: int, *, n_heads: int) -> None:
        super().__init__()
        self._n_heads = n_heads
        self.projection = nn.Linear(hidden, 3 * hidden)
        self.output = nn.Linear(hidden, hidden)

    def forward(self, states: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        """Attend within each history, one dense block per history length.

        Args:
            states: [n_tokens, d].
            groups: As in `HistoryBatch`.

        Returns:
            Shape [n_tokens, d].
        """
        d = states.shape[1]
        parts = self.projection(states).split([n * length for n, length in groups])
        mixed = []
        for (n, length), part in zip(groups, parts, strict=True):
            # [n * length, 3 d] -> 3 x [n, heads, length, d / heads]
            heads = part.view(n, length, 3, self._n_heads, d // self._n_heads)
            query, key, value = heads.permute(2, 0, 3, 1, 4)
            block = scaled_dot_product_attention(query, key, value, is_causal=True)
            mixed.append(block.transpose(1, 2).reshape(n * length, d))
        attended: Tensor = self.output(torch.cat(mixed))
        return attended


def attention_problems(hidden: int, *, n_blocks: int, n_heads: int) -> list[str]:
    """Return one sentence for each size of the encoder that is out of range."""
    sizes = {"hidden": hidden, "n_blocks": n_blocks, "n_heads": n_heads}
    found = [f"{name} must be at least 1, but is {n}." for name, n in sizes.items() if n < 1]
    if not found and hidden % n_heads:
        found.append(f"n_heads must divide hidden ({hidden}), but is {n_heads}.")
    return found
