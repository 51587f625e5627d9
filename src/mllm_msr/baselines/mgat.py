"""MGAT: MMGCN's graphs with gated attention in the place of means.

A baseline of the paper's Table 3 (Tao et al., IPM 2020; the paper cites another work under this
name). A neighbour counts by the softmax of its inner product with the node, times a sigmoid gate
of the same product: attention says which neighbours matter, the gate whether any of it should
pass in this modality. Every layer's result is used. Fallbacks as in `_graphs/bipartite.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from mllm_msr.baselines._graphs.edges import Edges, edge_dot, edge_softmax, edge_sum
from mllm_msr.baselines._graphs.recommender import GraphBaseline


class GatedAttention(nn.Module):
    """Neighbours weighted by attention and gate.

    Args:
        width: Size of a state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.send = nn.Linear(width, width, bias=False)

    def forward(self, edges: Edges, targets: Tensor, sources: Tensor) -> Tensor:
        """What each target gathers: [n_targets, width]."""
        sent = self.send(sources)
        products = edge_dot(edges, self.send(targets), sent)
        weights = edge_softmax(edges, products) * torch.sigmoid(products)
        return functional.leaky_relu(edge_sum(edges, weights, sent))


@final
@dataclass(kw_only=True, eq=False)
class Mgat(GraphBaseline):
    """Gated graph attention by modality; settings as for `GraphBaseline` and `ContentBaseline`."""

    def aggregate(self, width: int) -> nn.Module:
        """One layer's attention."""
        return GatedAttention(width)
