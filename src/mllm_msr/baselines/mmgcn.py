"""MMGCN: multimodal graph convolution network (Wei et al., MM 2019).

A baseline of the paper's Table 3. In the graph of each modality, users and items aggregate the mean
of the projected states of their neighbors; modalities are averaged. The model represents the
preferences of a user per modality, but not the order of the history. Id and preference embeddings
are trained like all other weights. Test users are nodes connected to their visible histories. The
fallbacks for unknown users and items (history, content and mean embeddings) are described in
`_graphs/bipartite.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, nn
from torch.nn import functional

from mllm_msr.baselines._graphs.edges import Edges, edge_sum
from mllm_msr.baselines._graphs.graph_baseline import GraphBaseline


class MeanAggregation(nn.Module):
    """Mean of the neighbors' projected states.

    Args:
        width: Size of a state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)

    def forward(self, edges: Edges, targets: Tensor, sources: Tensor) -> Tensor:
        """Aggregate the neighbors of each target, [n_targets, width]; `targets` is unused."""
        del targets
        means = edge_sum(edges, edges.mean_weights(), self.project(sources))
        return functional.leaky_relu(means)


@final
@dataclass(kw_only=True, eq=False)
class Mmgcn(GraphBaseline):
    """Recommender with graph convolution per modality; `GraphBaseline` has all settings."""

    label: ClassVar[str] = "MMGCN"

    def aggregate(self, width: int) -> nn.Module:
        """Build the mean aggregation of one layer."""
        return MeanAggregation(width)
