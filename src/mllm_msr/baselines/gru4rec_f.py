"""GRU4Rec_F: GRU4Rec with content (Hidasi et al. 2016, "Parallel RNN Architectures").

A baseline of the paper (section "Baseline Methods"). One GRU processes the id embeddings, another
the frozen text and image vectors after a linear map and a layer norm. The concatenated states are
mapped back; the score is the inner product with the concatenated id and content embeddings of an
item. Cold items are ranked by their content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from mllm_msr.baselines._content.tensors import ReadsContent
from mllm_msr.baselines._sequences.item_embeddings import IdContentEmbedding
from mllm_msr.baselines._sequences.sequence_baseline import SequenceBaseline
from mllm_msr.baselines._sequences.sequence_model import SequenceNetwork
from mllm_msr.baselines._training.checks import not_a_fraction, too_small
from mllm_msr.baselines._training.histories import HistoryBatch
from mllm_msr.baselines.gru4rec import Gru4Rec, HistoryGru
from mllm_msr.search_space import Space


@final
@dataclass(kw_only=True, eq=False)
class Gru4RecF(ReadsContent, SequenceBaseline):
    """Recommender with two GRUs, one over the ids and one over the content of the history.

    Attributes:
        id_dropout: Probability that an item loses its id embedding in a training pass, in [0, 1).
        embedding: Size of the id embedding and of each modality's embedding, at least 1.
        hidden: Size of each GRU's state, at least 1.
        n_layers: Layers of each GRU, at least 1.
        dropout: Dropout probability, in [0, 1).
    """

    label: ClassVar[str] = "GRU4Rec_F"
    remark: ClassVar[str] = "with content vectors"

    id_dropout: float = 0.1
    embedding: int = 64
    hidden: int = 128
    n_layers: int = 1
    dropout: float = 0.3

    @classmethod
    def space(cls) -> Space:
        """Return the search space of `mllm-msr tune`, the same as for `Gru4Rec`."""
        return Gru4Rec.space()

    def build_network(self, n_warm: int, content: Mapping[str, Tensor]) -> SequenceNetwork:
        """Build the two GRUs."""
        return Gru4RecFNetwork(
            IdContentEmbedding(
                content, n_warm=n_warm, size=self.embedding, id_dropout=self.id_dropout
            ),
            hidden=self.hidden,
            n_layers=self.n_layers,
            dropout=self.dropout,
        )

    def own_problems(self) -> list[str]:
        """Return one sentence for each setting that is out of range."""
        return [
            *too_small(self, "embedding", "hidden", "n_layers"),
            *not_a_fraction(self, "dropout", "id_dropout"),
        ]


class Gru4RecFNetwork(SequenceNetwork):
    """Network with a two-part item embedding, a GRU for each part, and a joint output map.

    Args:
        items: Item embeddings with an id part and a content part.
        hidden: Size of each GRU's state.
        n_layers: Layers of each GRU.
        dropout: Dropout probability.
    """

    def __init__(
        self, items: IdContentEmbedding, *, hidden: int, n_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.items = items
        self.grus = nn.ModuleList(
            HistoryGru(size, hidden=hidden, n_layers=n_layers) for size in items.sizes
        )
        self.output = nn.Linear(2 * hidden, sum(items.sizes))
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: HistoryBatch) -> Tensor:
        """Compute the state after each token, [n_tokens, d]."""
        parts = self.dropout(self.items(batch.items)).split(self.items.sizes, dim=-1)
        states = [gru(part, batch) for gru, part in zip(self.grus, parts, strict=True)]
        mapped: Tensor = self.output(self.dropout(torch.cat(states, dim=-1)))
        return mapped

    def table(self) -> Tensor:
        """Return the item embeddings, [n_codes, d]."""
        return self.items.table()
