"""SASRec_F: SASRec over item embeddings that include content (paper, "Baseline Methods").

Frozen text and image vectors, each after a linear map and a layer norm, are concatenated with the
id embedding and fused by a linear map. The encoder reads the fused embedding, and its states are
compared with it, so cold items are ranked by their content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from mllm_msr.baselines._content.tensors import ReadsContent
from mllm_msr.baselines._sequences.item_embeddings import FusedEmbedding, IdContentEmbedding
from mllm_msr.baselines._sequences.sequence_baseline import SequenceBaseline
from mllm_msr.baselines._sequences.sequence_model import SequenceNetwork
from mllm_msr.baselines._training.checks import not_a_fraction
from mllm_msr.baselines.sasrec import SasRec, SasRecNetwork, attention_problems
from mllm_msr.search_space import Space


@final
@dataclass(kw_only=True, eq=False)
class SasRecF(ReadsContent, SequenceBaseline):
    """Recommender with self-attention over ids and content of the history.

    Attributes:
        id_dropout: Probability that an item loses its id embedding in a training pass, in [0, 1).
        hidden: Size of the item embeddings and of all states, d, at least 1.
        n_blocks: Transformer blocks, at least 1.
        n_heads: Attention heads, at least 1; must divide `hidden`.
        dropout: Dropout probability, in [0, 1).
    """

    label: ClassVar[str] = "SASRec_F"
    remark: ClassVar[str] = "with content vectors"

    id_dropout: float = 0.1
    hidden: int = 64
    n_blocks: int = 2
    n_heads: int = 2
    dropout: float = 0.3

    @classmethod
    def space(cls) -> Space:
        """Return the search space of `mllm-msr tune`, the same as for `SasRec`."""
        return SasRec.space()

    def build_network(self, n_warm: int, content: Mapping[str, Tensor]) -> SequenceNetwork:
        """Build the encoder over fused embeddings."""
        parts = IdContentEmbedding(
            content, n_warm=n_warm, size=self.hidden, id_dropout=self.id_dropout
        )
        return SasRecNetwork(
            FusedEmbedding(parts, self.hidden),
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
            *not_a_fraction(self, "dropout", "id_dropout"),
        ]
