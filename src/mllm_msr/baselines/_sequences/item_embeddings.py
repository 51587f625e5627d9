"""Item embeddings of the sequence models: by id alone, or by id and content.

The `_F` models of the paper's Table 3 add frozen content vectors to SASRec and GRU4Rec. Items
without interactions (cold items) have no separate id embedding: they share row 0 and differ only by
content. To train that row, items randomly lose their id embedding during training (id dropout).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import cast, final

import torch
from torch import Tensor, nn

from mllm_msr.baselines._training.histories import UNKNOWN


class ItemEmbedding(nn.Module, ABC):
    """Embeddings of items by item code."""

    @abstractmethod
    def forward(self, codes: Tensor) -> Tensor:
        """Look up embeddings.

        Args:
            codes: Item codes, shape [...].

        Returns:
            Shape [..., d].
        """

    @abstractmethod
    def table(self) -> Tensor:
        """Return the embeddings of all codes, [n_codes, d]."""


@final
class IdEmbedding(ItemEmbedding):
    """Learned embedding per item.

    Args:
        n_codes: Number of rows.
        size: d.
    """

    def __init__(self, n_codes: int, size: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(n_codes, size)
        nn.init.xavier_normal_(self.rows.weight)

    def forward(self, codes: Tensor) -> Tensor:
        """Look up rows, [..., d]."""
        return cast("Tensor", self.rows(codes))

    def table(self) -> Tensor:
        """Return all rows, [n_codes, d]."""
        return self.rows.weight


@final
class IdContentEmbedding(ItemEmbedding):
    """Concatenation of the id embedding and the content embedding of an item.

    Args:
        content: Vectors of each modality, [n_codes, d_modality].
        n_warm: Number of items with interactions; their codes are 1 to `n_warm`.
        size: Size of the id embedding and of each modality's embedding.
        id_dropout: Probability that an item loses its id embedding in a training pass.

    Attributes:
        sizes: Sizes of the id part and of the content part.
    """

    def __init__(
        self, content: Mapping[str, Tensor], *, n_warm: int, size: int, id_dropout: float
    ) -> None:
        super().__init__()
        self.ids = IdEmbedding(n_warm + 1, size)
        self.content = ContentEmbedding(content, size)
        self.sizes = (size, size * len(content))
        self._id_dropout = id_dropout

    def forward(self, codes: Tensor) -> Tensor:
        """Look up both parts, [..., sum(sizes)]."""
        id_rows = torch.where(codes < self.ids.rows.num_embeddings, codes, UNKNOWN)
        if self.training and self._id_dropout:
            dropped = torch.rand(codes.shape, device=codes.device) < self._id_dropout
            id_rows = id_rows.masked_fill(dropped, UNKNOWN)
        return torch.cat([self.ids(id_rows), self.content(codes)], dim=-1)

    def table(self) -> Tensor:
        """Return both parts of all items, [n_codes, sum(sizes)]."""
        return cast("Tensor", self(self.content.codes()))


@final
class FusedEmbedding(ItemEmbedding):
    """Id and content embeddings, fused by a linear map.

    Args:
        parts: The concatenated embeddings.
        size: d.
    """

    def __init__(self, parts: IdContentEmbedding, size: int) -> None:
        super().__init__()
        self.parts = parts
        self.fuse = nn.Linear(sum(parts.sizes), size)

    def forward(self, codes: Tensor) -> Tensor:
        """Compute the fused embeddings of some items, [..., d]."""
        return cast("Tensor", self.fuse(self.parts(codes)))

    def table(self) -> Tensor:
        """Compute the fused embeddings of all items, [n_codes, d]."""
        return cast("Tensor", self.fuse(self.parts.table()))


@final
class ContentEmbedding(ItemEmbedding):
    """Frozen content vectors; each modality has its own linear map and layer norm.

    Args:
        content: Vectors of each modality, [n_codes, d_modality]; zero rows for missing content.
        size: Size per modality; the embedding has `size` times the number of modalities.
    """

    def __init__(self, content: Mapping[str, Tensor], size: int) -> None:
        super().__init__()
        self._names = sorted(content)
        for name in self._names:
            self.register_buffer(name, content[name])
        self.maps = nn.ModuleDict(
            {
                f"{name}_map": nn.Sequential(
                    nn.Linear(content[name].shape[1], size), nn.LayerNorm(size)
                )
                for name in self._names
            }
        )

    def codes(self) -> Tensor:
        """Return all codes, [n_codes]."""
        vectors = self.get_buffer(self._names[0])
        return torch.arange(len(vectors), device=vectors.device)

    def forward(self, codes: Tensor) -> Tensor:
        """Compute the content embeddings of some items, [..., n_modalities * size]."""
        mapped = [self.maps[f"{name}_map"](self.get_buffer(name)[codes]) for name in self._names]
        return torch.cat(mapped, dim=-1)

    def table(self) -> Tensor:
        """Compute the content embeddings of all items, [n_codes, n_modalities * size]."""
        return cast("Tensor", self(self.codes()))

    def append(self, content: Mapping[str, Tensor]) -> None:
        """Add items with the next codes.

        Args:
            content: Vectors of each modality, [n_new, d_modality].
        """
        for name in self._names:
            vectors = self.get_buffer(name)
            self.register_buffer(name, torch.cat([vectors, content[name].to(vectors)]))


def content_in_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the content vectors in a saved state dict, by modality.

    A network must be built with them before it can load the state dict.
    """
    tensors = {
        name.rpartition("content.")[2]: t for name, t in weights.items() if "content." in name
    }
    return {name: tensor for name, tensor in tensors.items() if "." not in name}
