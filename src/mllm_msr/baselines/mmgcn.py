"""MMGCN: a user-item graph for each modality, convolved by means over neighbours.

A baseline of the paper's Table 3 (Wei et al., MM 2019). In each modality users and items gather the
mean of their neighbours' projected states; modalities are averaged. It knows tastes by modality
but not the order of a history. Test users are nodes through their visible histories; users and
items that nobody has seen are served as `_graphs/bipartite.py` says: by history, by content and by
mean embeddings. Id and preference embeddings are trained like everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.nn import functional

from mllm_msr.baselines._graphs.edges import Edges, edge_sum
from mllm_msr.baselines._graphs.recommender import GraphBaseline


class MeanAggregation(nn.Module):
    """The mean of what the neighbours send.

    Args:
        width: Size of a state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.send = nn.Linear(width, width)

    def forward(self, edges: Edges, targets: Tensor, sources: Tensor) -> Tensor:
        """What each target gathers: [n_targets, width]; targets' states are not read."""
        _ = targets
        means = edge_sum(edges, edges.mean_weights(), self.send(sources))
        return functional.leaky_relu(means)


@final
@dataclass(kw_only=True, eq=False)
class Mmgcn(GraphBaseline):
    """Graph convolution by modality; settings as for `GraphBaseline` and `ContentBaseline`."""

    def aggregate(self, width: int) -> nn.Module:
        """One layer's means."""
        return MeanAggregation(width)
