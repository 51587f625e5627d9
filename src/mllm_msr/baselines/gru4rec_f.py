"""GRU4Rec_F: a second GRU reads content (Hidasi et al. 2016; paper, section "Baseline Methods").

One GRU reads the items' own vectors, another their frozen text and image vectors, each through a
linear map and a norm. The two states are joined and mapped back; the product with an item's own
vector and with its content vector, side by side, is the score. An item that nobody has chosen is
ranked by its content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from mllm_msr.baselines._content.tensors import ReadsContent
from mllm_msr.baselines._sequences.item_vectors import PartedVectors
from mllm_msr.baselines._sequences.next_item import NextItemRecommender
from mllm_msr.baselines._sequences.scores import SequenceNetwork
from mllm_msr.baselines._training.checks import not_a_share, too_small
from mllm_msr.baselines._training.histories import Batch
from mllm_msr.baselines.gru4rec import Gru4Rec, Recurrence
from mllm_msr.search_space import Space


@final
@dataclass(kw_only=True, eq=False)
class Gru4RecF(ReadsContent, NextItemRecommender):
    """Two GRUs, over the ids and over the content of the history.

    Attributes:
        id_dropout: Share of items per pass that are known by content alone, in [0, 1).
        embedding: Size of an item's own vector, and of each modality's, at least 1.
        hidden: Size of each GRU's state, at least 1.
        n_layers: Layers of each GRU, at least 1.
        dropout: Share of the numbers that are dropped in training, in [0, 1).
    """

    id_dropout: float = 0.1
    embedding: int = 64
    hidden: int = 128
    n_layers: int = 1
    dropout: float = 0.3

    @classmethod
    def space(cls) -> Space:
        """What `mllm-msr tune` searches: the same as for `Gru4Rec`."""
        return Gru4Rec.space()

    def network(self, n_met: int, content: Mapping[str, Tensor]) -> SequenceNetwork:
        """The two encoders."""
        return Gru4RecFNetwork(
            PartedVectors(content, n_met=n_met, size=self.embedding, id_dropout=self.id_dropout),
            hidden=self.hidden,
            n_layers=self.n_layers,
            dropout=self.dropout,
        )

    def own_problems(self) -> list[str]:
        """One sentence for each setting out of its range."""
        return [
            *too_small(self, "embedding", "hidden", "n_layers"),
            *not_a_share(self, "dropout", "id_dropout"),
        ]


class Gru4RecFNetwork(SequenceNetwork):
    """The two encoders.

    Args:
        items: Vectors by item code, own and content parts.
        hidden: Size of each GRU's state.
        n_layers: Layers of each GRU.
        dropout: Share of dropped numbers.
    """

    def __init__(self, items: PartedVectors, *, hidden: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        self.items = items
        self.recurrences = nn.ModuleList(
            Recurrence(size, hidden=hidden, n_layers=n_layers) for size in items.sizes
        )
        self.output = nn.Linear(2 * hidden, sum(items.sizes))
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> Tensor:
        """The state after each token: [n_tokens, d]."""
        parts = self.dropout(self.items(batch.items)).split(self.items.sizes, dim=-1)
        states = [
            recurrence(part, batch)
            for recurrence, part in zip(self.recurrences, parts, strict=True)
        ]
        mapped: Tensor = self.output(self.dropout(torch.cat(states, dim=-1)))
        return mapped

    def table(self) -> Tensor:
        """The item vectors: [n_codes, d]."""
        return self.items.table()
