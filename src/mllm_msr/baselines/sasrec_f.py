"""SASRec_F: SASRec over item vectors that hold content (paper, section "Baseline Methods").

Frozen text and image vectors, each through a linear map and a norm, stand beside the item's own
vector; one more linear map joins the three. The joined vector is what the encoder reads and what
its state is compared with, so that an item which nobody has chosen is ranked by its content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor

from mllm_msr.baselines._sequences.item_vectors import JoinedVectors, PartedVectors
from mllm_msr.baselines._sequences.next_item import Encoders, NextItemRecommender
from mllm_msr.baselines._sequences.scores import SequenceNetwork
from mllm_msr.baselines._training.ranges import not_a_share
from mllm_msr.baselines.sasrec import SasRecNetwork, attention_problems
from mllm_msr.spaces import Between, OneOf, Space


@final
@dataclass(kw_only=True, eq=False)
class SasRecF(NextItemRecommender):
    """Self-attention over ids and content of the history.

    Attributes:
        text_encoder: A text encoder's name, see `_content/features.py`.
        image_encoder: An image encoder's name, see `_content/features.py`.
        content_cache: Folder for finished content vectors; None keeps none.
        id_dropout: Share of items per pass that are known by content alone, in [0, 1).
        hidden: Size of the item vectors and of all states, d.
        n_blocks: Blocks of attention and feed-forward.
        n_heads: Heads of attention; divides `hidden`.
        dropout: Share of the numbers that are dropped in training, in [0, 1).
    """

    text_encoder: str = "hashing"
    image_encoder: str = "colours"
    content_cache: Path | None = None
    id_dropout: float = 0.1
    hidden: int = 64
    n_blocks: int = 2
    n_heads: int = 2
    dropout: float = 0.3

    @classmethod
    def space(cls) -> Space:
        """What `mllm-msr tune` searches."""
        return {
            "hidden": OneOf((64, 128)),
            "n_blocks": Between(1, 3),
            "dropout": Between(0.1, 0.6),
            "learning_rate": Between(2e-4, 5e-3, log=True),
            "negative_power": Between(0.0, 1.0),
        }

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

    def encoders(self) -> Encoders:
        """The encoders of the settings."""
        return Encoders(self.text_encoder, self.image_encoder, self.content_cache)

    def own_problems(self) -> list[str]:
        """One sentence for each setting out of its range."""
        return [
            *attention_problems(self.hidden, n_blocks=self.n_blocks, n_heads=self.n_heads),
            *not_a_share(self, "dropout", "id_dropout"),
        ]
