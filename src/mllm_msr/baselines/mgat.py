"""MGAT: multimodal graph attention network (Tao et al., IPM 2020).

A baseline of the paper's Table 3 (the paper cites another work under this name). The graphs are
those of MMGCN, with gated attention instead of means. The weight of a neighbor is the softmax of
its inner product with the node, times a sigmoid gate of the same product: attention compares the
neighbors, and the gate controls how much the modality contributes. The fallbacks for unknown users
and items are described in `_graphs/bipartite.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from mllm_msr.baselines._graphs.edges import Edges, edge_dot, edge_softmax, edge_sum
from mllm_msr.baselines._graphs.graph_baseline import GraphBaseline


class GatedAttention(nn.Module):
    """Aggregation of neighbors weighted by attention and gate.

    Args:
        width: Size of a state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width, bias=False)

    def forward(self, edges: Edges, targets: Tensor, sources: Tensor) -> Tensor:
        """Aggregate the neighbors of each target, [n_targets, width]."""
        projected = self.project(sources)
        products = edge_dot(edges, self.project(targets), projected)
        weights = edge_softmax(edges, products) * torch.sigmoid(products)
        return functional.leaky_relu(edge_sum(edges, weights, projected))


@final
@dataclass(kw_only=True, eq=False)
class Mgat(GraphBaseline):
    """Recommender with gated graph attention per modality; `GraphBaseline` has all settings."""

    label: ClassVar[str] = "MGAT"

    def aggregate(self, width: int) -> nn.Module:
        """Build the attention of one layer."""
        return GatedAttention(width)
