"""SASRec: causal self-attention over the history (Kang & McAuley 2018).

Item embedding times the root of its size, plus learned places, then pre-norm blocks of causal
attention and a feed-forward layer, a last norm, and the product with the same item embedding.
Places count from the oldest item that is read, so that a prefix met in training and the same
history met in scoring are one and the same input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mllm_msr.baselines._sequences.item_vectors import IdVectors, ItemVectors
from mllm_msr.baselines._sequences.next_item import NextItemRecommender
from mllm_msr.baselines._sequences.scores import SequenceNetwork
from mllm_msr.baselines._training.checks import not_a_share
from mllm_msr.baselines._training.histories import Batch
from mllm_msr.search_space import Choice, Range, Space


@final
@dataclass(kw_only=True, eq=False)
class SasRec(NextItemRecommender):
    """Self-attention over the ids of the history.

    Attributes:
        hidden: Size of the item vectors and of all states, d, at least 1.
        n_blocks: Blocks of attention and feed-forward, at least 1.
        n_heads: Heads of attention, at least 1; divides `hidden`.
        dropout: Share of the numbers that are dropped in training, in [0, 1).
    """

    hidden: int = 64
    n_blocks: int = 2
    n_heads: int = 2
    dropout: float = 0.3

    @classmethod
    def space(cls) -> Space:
        """What `mllm-msr tune` searches."""
        return {
            "hidden": Choice((64, 128)),
            "n_blocks": Range(1, 3),
            "dropout": Range(0.1, 0.6),
            "learning_rate": Range(2e-4, 5e-3, log=True),
            "negative_power": Range(0.0, 1.0),
        }

    def network(self, n_met: int, content: Mapping[str, Tensor]) -> SequenceNetwork:  # noqa: ARG002 - ids alone
        """The encoder over free item vectors."""
        return SasRecNetwork(
            IdVectors(n_met + 1, self.hidden),
            hidden=self.hidden,
            n_blocks=self.n_blocks,
            n_heads=self.n_heads,
            dropout=self.dropout,
            max_length=self.max_length,
        )

    def own_problems(self) -> list[str]:
        """One sentence for each setting out of its range."""
        return [
            *attention_problems(self.hidden, n_blocks=self.n_blocks, n_heads=self.n_heads),
            *not_a_share(self, "dropout"),
        ]


class SasRecNetwork(SequenceNetwork):
    """The encoder.

    Args:
        items: Vectors of size d by item code.
        hidden: d.
        n_blocks: Blocks.
        n_heads: Heads of attention.
        dropout: Share of dropped numbers.
        max_length: Longest history.
    """

    def __init__(
        self,
        items: ItemVectors,
        *,
        hidden: int,
        n_blocks: int,
        n_heads: int,
        dropout: float,
        max_length: int,
    ) -> None:
        super().__init__()
        self.items = items
        self.places = nn.Embedding(max_length, hidden)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(hidden, n_heads=n_heads, dropout=dropout) for _ in range(n_blocks)
        )
        self.norm = nn.LayerNorm(hidden)
        nn.init.xavier_normal_(self.places.weight)

    def forward(self, batch: Batch) -> Tensor:
        """The state after each token: [n_tokens, d]."""
        states = self.items(batch.items) * math.sqrt(self.places.embedding_dim)
        states = self.dropout(states + self.places(batch.places))
        groups = batch.groups
        for block in self.blocks:
            states = block(states, groups)
        normed: Tensor = self.norm(states)
        return normed

    def table(self) -> Tensor:
        """The item vectors: [n_codes, d]."""
        return self.items.table()


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each after a norm and beside a skip."""

    def __init__(self, hidden: int, *, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden)
        self.attention = CausalAttention(hidden, n_heads=n_heads)
        self.feed_norm = nn.LayerNorm(hidden)
        self.feed = nn.Sequential(
            nn.Linear(hidden, 4 * hidden),
            nn.GELU(),
            nn.Linear(4 * hidden, hidden),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        """From states [n_tokens, d] to states [n_tokens, d]."""
        states = states + self.dropout(self.attention(self.attention_norm(states), groups))
        fed: Tensor = states + self.dropout(self.feed(self.feed_norm(states)))
        return fed


class CausalAttention(nn.Module):
    """Attention of each token to itself and those before it in its own history."""

    def __init__(self, hidden: int, *, n_heads: int) -> None:
        super().__init__()
        self._n_heads = n_heads
        self.projection = nn.Linear(hidden, 3 * hidden)
        self.output = nn.Linear(hidden, hidden)

    def forward(self, states: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        """From states [n_tokens, d] to states [n_tokens, d], one dense block per length."""
        d = states.shape[1]
        parts = self.projection(states).split([n * length for n, length in groups])
        mixed = []
        for (n, length), part in zip(groups, parts, strict=True):
            # [n * length, 3 d] -> 3 x [n, heads, length, d / heads]
            each = part.view(n, length, 3, self._n_heads, d // self._n_heads)
            query, key, value = each.permute(2, 0, 3, 1, 4)
            block = scaled_dot_product_attention(query, key, value, is_causal=True)
            mixed.append(block.transpose(1, 2).reshape(n * length, d))
        found: Tensor = self.output(torch.cat(mixed))
        return found


def attention_problems(hidden: int, *, n_blocks: int, n_heads: int) -> list[str]:
    """One sentence for each size of the encoder out of its range."""
    sizes = {"hidden": hidden, "n_blocks": n_blocks, "n_heads": n_heads}
    found = [f"{name} must be at least 1, it is {n}" for name, n in sizes.items() if n < 1]
    if not found and hidden % n_heads:
        found.append(f"n_heads must divide hidden ({hidden}), it is {n_heads}")
    return found
