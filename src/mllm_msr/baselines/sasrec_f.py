"""SASRec_F: SASRec over item vectors that hold content (paper, section "Baseline Methods").

Frozen text and image vectors, each through a linear map and a norm, stand beside the item's own
vector; one more linear map joins the three. The joined vector is what the encoder reads and what
its state is compared with, so that an item which nobody has chosen is ranked by its content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from mllm_msr.baselines._content.tensors import ReadsContent
from mllm_msr.baselines._sequences.item_vectors import JoinedVectors, PartedVectors
from mllm_msr.baselines._sequences.next_item import NextItemRecommender
from mllm_msr.baselines._sequences.scores import SequenceNetwork
from mllm_msr.baselines._training.checks import not_a_share
from mllm_msr.baselines.sasrec import SasRec, SasRecNetwork, attention_problems
from mllm_msr.search_space import Space


@final
@dataclass(kw_only=True, eq=False)
class SasRecF(ReadsContent, NextItemRecommender):
    """Self-attention over ids and content of the history.

    Attributes:
        id_dropout: Share of items per pass that are known by content alone, in [0, 1).
        hidden: Size of the item vectors and of all states, d, at least 1.
        n_blocks: Blocks of attention and feed-forward, at least 1.
        n_heads: Heads of attention, at least 1; divides `hidden`.
        dropout: Share of the numbers that are dropped in training, in [0, 1).
    """

    id_dropout: float = 0.1
    hidden: int = 64
    n_blocks: int = 2
    n_heads: int = 2
    dropout: float = 0.3

    @classmethod
    def space(cls) -> Space:
        """What `mllm-msr tune` searches: the same as for `SasRec`."""
        return SasRec.space()

    def network(self, n_met: int, content: Mapping[str, Tensor]) -> SequenceNetwork:
        """The encoder over joined item vectors."""
        parts = PartedVectors(content, n_met=n_met, size=self.hidden, id_dropout=self.id_dropout)
        return SasRecNetwork(
            JoinedVectors(parts, self.hidden),
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
            *not_a_share(self, "dropout", "id_dropout"),
        ]
