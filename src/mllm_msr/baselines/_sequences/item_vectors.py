"""What an item is to a sequence model: a row of its own, or that row joined with its content.

The `_F` models of the paper's Table 3 give SASRec and GRU4Rec frozen content vectors. An item that
nobody has chosen has no row of its own; it shares row 0 with all its like and differs from them
by content alone. So that this row means something, items are now and then robbed of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import cast, final

import torch
from torch import Tensor, nn

from mllm_msr.baselines._training.histories import UNKNOWN


class ItemVectors(nn.Module, ABC):
    """Vectors of items by their codes."""

    @abstractmethod
    def forward(self, codes: Tensor) -> Tensor:
        """The vectors of some items: [..., d] for codes [...]."""

    @abstractmethod
    def table(self) -> Tensor:
        """The vectors of all codes: [n_codes, d]."""


@final
class IdVectors(ItemVectors):
    """One free vector per item.

    Args:
        n_codes: Rows.
        size: d.
    """

    def __init__(self, n_codes: int, size: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(n_codes, size)
        nn.init.xavier_normal_(self.rows.weight)

    def forward(self, codes: Tensor) -> Tensor:
        """The rows of some items."""
        return cast("Tensor", self.rows(codes))

    def table(self) -> Tensor:
        """All rows."""
        return self.rows.weight


@final
class PartedVectors(ItemVectors):
    """An item's own vector and its content, side by side.

    Args:
        content: Each modality's vectors [n_codes, d_modality].
        n_met: Items with a row of their own: codes 1 to `n_met`.
        size: Size of the own vector and of each modality's.
        id_dropout: Share of items per pass that lose their row in training.

    Attributes:
        sizes: Size of the own part and of the content part.
    """

    def __init__(
        self, content: Mapping[str, Tensor], *, n_met: int, size: int, id_dropout: float
    ) -> None:
        super().__init__()
        self.ids = IdVectors(n_met + 1, size)
        self.content = MappedContent(content, size)
        self.sizes = (size, size * len(content))
        self._id_dropout = id_dropout

    def forward(self, codes: Tensor) -> Tensor:
        """The vectors of some items: [..., sum(sizes)]."""
        own = torch.where(codes < self.ids.rows.num_embeddings, codes, UNKNOWN)
        if self.training and self._id_dropout:
            robbed = torch.rand(codes.shape, device=codes.device) < self._id_dropout
            own = own.masked_fill(robbed, UNKNOWN)
        return torch.cat([self.ids(own), self.content(codes)], dim=-1)

    def table(self) -> Tensor:
        """The vectors of all items: [n_codes, sum(sizes)]."""
        return cast("Tensor", self(self.content.codes()))


@final
class JoinedVectors(ItemVectors):
    """The parts of `PartedVectors`, brought to one size by one linear map.

    Args:
        parts: The parts.
        size: d.
    """

    def __init__(self, parts: PartedVectors, size: int) -> None:
        super().__init__()
        self.parts = parts
        self.join = nn.Linear(sum(parts.sizes), size)

    def forward(self, codes: Tensor) -> Tensor:
        """The joined vectors of some items: [..., d]."""
        return cast("Tensor", self.join(self.parts(codes)))

    def table(self) -> Tensor:
        """The joined vectors of all items: [n_codes, d]."""
        return cast("Tensor", self.join(self.parts.table()))


@final
class MappedContent(ItemVectors):
    """An item's frozen content, each modality through a linear map and a norm of its own.

    Args:
        content: Each modality's vectors [n_codes, d_modality]; zero rows where there are none.
        size: Size per modality; the vectors have `size` times the number of modalities.
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
        """All codes: [n_codes]."""
        vectors = self.get_buffer(self._names[0])
        return torch.arange(len(vectors), device=vectors.device)

    def forward(self, codes: Tensor) -> Tensor:
        """The mapped content of some items."""
        mapped = [self.maps[f"{name}_map"](self.get_buffer(name)[codes]) for name in self._names]
        return torch.cat(mapped, dim=-1)

    def table(self) -> Tensor:
        """The mapped content of all items."""
        return cast("Tensor", self(self.codes()))


def content_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The content vectors among saved weights, to build a network that these weights fit."""
    marked = {
        name.rpartition("content.")[2]: t for name, t in weights.items() if "content." in name
    }
    return {name: tensor for name, tensor in marked.items() if "." not in name}
