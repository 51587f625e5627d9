"""GRU4Rec: a recurrent network over the history (Hidasi et al. 2015; Hidasi & Karatzoglou 2018).

Item embedding, one or more GRU layers, a linear map back to the embedding's size, and the product
with the same item embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from mllm_msr.baselines._sequences.item_vectors import IdVectors, ItemVectors
from mllm_msr.baselines._sequences.next_item import NextItemRecommender
from mllm_msr.baselines._sequences.scores import SequenceNetwork
from mllm_msr.baselines._training.checks import not_a_share, too_small
from mllm_msr.baselines._training.histories import Batch
from mllm_msr.search_space import Choice, Range, Space


@final
@dataclass(kw_only=True, eq=False)
class Gru4Rec(NextItemRecommender):
    """A GRU over the ids of the history.

    Attributes:
        embedding: Size of the item vectors, at least 1.
        hidden: Size of the GRU's state, at least 1.
        n_layers: GRU layers, at least 1.
        dropout: Share of the numbers that are dropped in training, in [0, 1).
    """

    embedding: int = 64
    hidden: int = 128
    n_layers: int = 1
    dropout: float = 0.3

    @classmethod
    def space(cls) -> Space:
        """What `mllm-msr tune` searches."""
        return {
            "embedding": Choice((64, 128)),
            "hidden": Choice((128, 256)),
            "dropout": Range(0.1, 0.6),
            "learning_rate": Range(2e-4, 5e-3, log=True),
            "negative_power": Range(0.0, 1.0),
        }

    def network(self, n_met: int, content: Mapping[str, Tensor]) -> SequenceNetwork:  # noqa: ARG002 - ids alone
        """The encoder over free item vectors."""
        return Gru4RecNetwork(
            IdVectors(n_met + 1, self.embedding),
            embedding=self.embedding,
            hidden=self.hidden,
            n_layers=self.n_layers,
            dropout=self.dropout,
        )

    def own_problems(self) -> list[str]:
        """One sentence for each setting out of its range."""
        return [
            *too_small(self, "embedding", "hidden", "n_layers"),
            *not_a_share(self, "dropout"),
        ]


class Gru4RecNetwork(SequenceNetwork):
    """The encoder.

    Args:
        items: Vectors of size `embedding` by item code.
        embedding: Size of the item vectors.
        hidden: Size of the GRU's state.
        n_layers: GRU layers.
        dropout: Share of dropped numbers.
    """

    def __init__(
        self, items: ItemVectors, *, embedding: int, hidden: int, n_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.items = items
        self.recurrence = Recurrence(embedding, hidden=hidden, n_layers=n_layers)
        self.output = nn.Linear(hidden, embedding)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> Tensor:
        """The state after each token: [n_tokens, embedding]."""
        states = self.recurrence(self.dropout(self.items(batch.items)), batch)
        mapped: Tensor = self.output(self.dropout(states))
        return mapped

    def table(self) -> Tensor:
        """The item vectors: [n_codes, embedding]."""
        return self.items.table()


class Recurrence(nn.Module):
    """A GRU over histories that lie one after the other, longest first.

    All histories take a step together, and those that have ended take none.
    """

    def __init__(self, size: int, *, hidden: int, n_layers: int) -> None:
        super().__init__()
        self.gru = nn.GRU(size, hidden, num_layers=n_layers)

    def forward(self, inputs: Tensor, batch: Batch) -> Tensor:
        """From inputs [n_tokens, size] to states [n_tokens, hidden]."""
        order, sizes = batch.by_time()
        packed, _ = self.gru(nn.utils.rnn.PackedSequence(inputs[order], sizes))
        states: Tensor = packed.data[torch.argsort(order)]
        return states
