"""GRU4Rec: a recurrent network over the history (Hidasi et al. 2015; Hidasi & Karatzoglou 2018).

Item embedding, one or more GRU layers, a linear map back to the size of the embedding, and the
inner product with the same item embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from mllm_msr.baselines._sequences.item_embeddings import IdEmbedding, ItemEmbedding
from mllm_msr.baselines._sequences.sequence_baseline import SequenceBaseline
from mllm_msr.baselines._sequences.sequence_model import SequenceNetwork
from mllm_msr.baselines._training.checks import not_a_fraction, too_small
from mllm_msr.baselines._training.histories import HistoryBatch
from mllm_msr.search_space import Choice, Range, Space


@final
@dataclass(kw_only=True, eq=False)
class Gru4Rec(SequenceBaseline):
    """Recommender with a GRU over the item ids of the history.

    Attributes:
        embedding: Size of the item embeddings, at least 1.
        hidden: Size of the GRU's state, at least 1.
        n_layers: GRU layers, at least 1.
        dropout: Dropout probability, in [0, 1).
    """

    label: ClassVar[str] = "GRU4Rec"

    embedding: int = 64
    hidden: int = 128
    n_layers: int = 1
    dropout: float = 0.3

    @classmethod
    def space(cls) -> Space:
        """Return the search space of `mllm-msr tune`."""
        return {
            "embedding": Choice((64, 128)),
            "hidden": Choice((128, 256)),
            "dropout": Range(0.1, 0.6),
            "learning_rate": Range(2e-4, 5e-3, log=True),
            "negative_power": Range(0.0, 1.0),
        }

    def build_network(self, n_warm: int, content: Mapping[str, Tensor]) -> SequenceNetwork:  # noqa: ARG002 - ids only
        """Build the GRU over id embeddings."""
        return Gru4RecNetwork(
            IdEmbedding(n_warm + 1, self.embedding),
            embedding=self.embedding,
            hidden=self.hidden,
            n_layers=self.n_layers,
            dropout=self.dropout,
        )

    def own_problems(self) -> list[str]:
        """Return one sentence for each setting that is out of range."""
        return [
            *too_small(self, "embedding", "hidden", "n_layers"),
            *not_a_fraction(self, "dropout"),
        ]


class Gru4RecNetwork(SequenceNetwork):
    """Network with item embedding, GRU and output map.

    Args:
        items: Item embeddings of size `embedding`.
        embedding: Size of the item embeddings.
        hidden: Size of the GRU's state.
        n_layers: GRU layers.
        dropout: Dropout probability.
    """

    def __init__(
        self, items: ItemEmbedding, *, embedding: int, hidden: int, n_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.items = items
        self.gru = HistoryGru(embedding, hidden=hidden, n_layers=n_layers)
        self.output = nn.Linear(hidden, embedding)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: HistoryBatch) -> Tensor:
        """Compute the state after each token, [n_tokens, embedding]."""
        states = self.gru(self.dropout(self.items(batch.items)), batch)
        mapped: Tensor = self.output(self.dropout(states))
        return mapped

    def table(self) -> Tensor:
        """Return the item embeddings, [n_codes, embedding]."""
        return self.items.table()


class HistoryGru(nn.Module):
    """GRU over a batch of concatenated histories, longest first.

    All histories advance one step at a time; finished histories cost nothing.
    """

    def __init__(self, size: int, *, hidden: int, n_layers: int) -> None:
        super().__init__()
        self.gru = nn.GRU(size, hidden, num_layers=n_layers)

    def forward(self, inputs: Tensor, batch: HistoryBatch) -> Tensor:
        """Compute states [n_tokens, hidden] from inputs [n_tokens, size]."""
        order, sizes = batch.by_time()
        packed, _ = self.gru(nn.utils.rnn.PackedSequence(inputs[order], sizes))
        states: Tensor = packed.data[torch.argsort(order)]
        return states
