"""Network of MMSR: asynchronous fusion over the graph of each history (Hu et al., CIKM 2023).

A layer fuses along the history (among nodes of one kind) and across modalities (among nodes that
describe the same item), in both orders, and each node learns how to weight the two orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mllm_msr.baselines._content.clusters import Clusters
from mllm_msr.baselines._graphs.edges import Edges, edge_attention, edge_dot, edge_softmax, edge_sum
from mllm_msr.baselines._graphs.sequence_graphs import RELATIONS, SequenceGraph


class LinearPerKind(nn.Module):
    """Linear map with separate weights for each kind of node.

    Args:
        n_kinds: Kinds of nodes.
        width: Size of a state.
        n_maps: Number of maps computed at once.
    """

    def __init__(self, n_kinds: int, width: int, *, n_maps: int = 1) -> None:
        super().__init__()
        self.n_maps = n_maps
        self.maps = nn.ModuleList(nn.Linear(width, n_maps * width) for _ in range(n_kinds))

    def forward(self, states: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        """Apply the maps to states grouped by kind.

        Args:
            states: [n_nodes, width].
            sizes: Nodes of each kind.

        Returns:
            `n_maps` tensors [n_nodes, width].
        """
        parts = torch.split(states, list(sizes))
        mapped = torch.cat([own(part) for own, part in zip(self.maps, parts, strict=True)])
        return torch.chunk(mapped, self.n_maps, dim=-1)


class HomogeneousFusion(nn.Module):
    """Graph attention among nodes of one kind, with an attention vector per relation.

    The softmax runs over the neighbors of all relations together: within one relation most nodes
    have a single neighbor, whose weight would always be 1.

    Args:
        n_kinds: Kinds of nodes.
        width: Size of a state.
    """

    def __init__(self, n_kinds: int, width: int) -> None:
        super().__init__()
        self.values = LinearPerKind(n_kinds, width)
        self.attention = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(n_kinds, width) / width) for name in RELATIONS}
        )

    def forward(self, states: Tensor, graph: SequenceGraph) -> Tensor:
        """Compute new states, [n_nodes, width]."""
        (values,) = self.values(states, graph.kind_sizes)
        sizes = torch.tensor(graph.kind_sizes, device=states.device)
        lists = [graph.relations[name] for name in RELATIONS]
        logits = [
            functional.leaky_relu(
                edge_dot(edges, states * self.attention[name].repeat_interleave(sizes, 0), states)
            )
            for name, edges in zip(RELATIONS, lists, strict=True)
        ]
        gathered = edge_attention(lists, logits, values)
        return states + functional.leaky_relu(gathered)


class HeterogeneousFusion(nn.Module):
    """Attention from each node to the nodes of other kinds that describe its items."""

    def __init__(self, n_kinds: int, width: int) -> None:
        super().__init__()
        self.maps = LinearPerKind(n_kinds, width, n_maps=3)

    def forward(self, states: Tensor, graph: SequenceGraph) -> Tensor:
        """Compute new states, [n_nodes, width]."""
        queries, keys, values = self.maps(states, graph.kind_sizes)
        return states + attend(graph.links, queries, keys, values)


def attend(edges: Edges, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Compute scaled dot-product attention along edges, [n_targets, width]."""
    logits = edge_dot(edges, queries, keys) / math.sqrt(queries.shape[-1])
    return edge_sum(edges, edge_softmax(edges, logits), values)


class FusionLayer(nn.Module):
    """Layer that applies both fusions in both orders and mixes the results by a gate per node."""

    def __init__(self, n_kinds: int, width: int, *, dropout: float) -> None:
        super().__init__()
        self.homogeneous = HomogeneousFusion(n_kinds, width)
        self.heterogeneous = HeterogeneousFusion(n_kinds, width)
        self.gate = nn.Linear(3 * width, 2)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, graph: SequenceGraph) -> Tensor:
        """Compute new states, [n_nodes, width]."""
        first = self.heterogeneous(self.homogeneous(states, graph), graph)
        second = self.homogeneous(self.heterogeneous(states, graph), graph)
        gate = self.gate(torch.cat([states, first, second], dim=-1)).softmax(-1)
        mixed: Tensor = self.norm(states + self.dropout(gate[:, :1] * first + gate[:, 1:] * second))
        return mixed


class SequenceFusion(nn.Module):
    """Network that maps the graph of a history to the vector of the next item.

    An item's vector is its id embedding plus a projection of its content, both as input and as
    candidate, so items without interactions are predicted by their content. A modality node starts
    from its projected centroid plus an embedding of the cluster.

    Args:
        features: Content vectors by item code, one tensor [n_codes, d] per modality; buffers that
            are not saved in the state dict.
        clusters: Clusters of each modality.
        width: Size of a state.
        n_layers: Fusion layers.
        dropout: Dropout probability of states.
    """

    def __init__(
        self,
        features: Sequence[Tensor],
        clusters: Sequence[Clusters],
        *,
        width: int,
        n_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.item_ids = nn.Parameter(0.02 * torch.randn(len(features[0]), width))
        self.content = nn.ModuleList()
        self.cluster_ids = nn.ParameterList()
        for index, (table, found) in enumerate(zip(features, clusters, strict=True)):
            self.register_buffer(f"features{index}", table, persistent=False)
            centroids = torch.from_numpy(found.centroids)
            self.register_buffer(f"centroids{index}", centroids, persistent=False)
            project = nn.Linear(table.shape[1], width, bias=False)
            nn.init.normal_(project.weight, std=0.02)
            self.content.append(project)
            self.cluster_ids.append(nn.Parameter(0.02 * torch.randn(len(centroids), width)))
        n_kinds = 1 + len(features)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            FusionLayer(n_kinds, width, dropout=dropout) for _ in range(n_layers)
        )

    def item_table(self) -> Tensor:
        """Compute the vectors of all items, [n_codes, width]."""
        vectors: Tensor = self.item_ids
        for index, project in enumerate(self.content):
            vectors = vectors + project(self.get_buffer(f"features{index}"))
        return vectors

    def forward(self, graph: SequenceGraph, items: Tensor) -> Tensor:
        """Compute the vector of each history; scores are inner products with item vectors.

        Args:
            graph: Graphs of histories.
            items: Result of `item_table`.

        Returns:
            Shape [n_histories, width].
        """
        tables = [items]
        for index, (project, own) in enumerate(zip(self.content, self.cluster_ids, strict=True)):
            tables.append(own + project(self.get_buffer(f"centroids{index}")))
        parts = torch.split(graph.content, list(graph.kind_sizes))
        initial = [table[part] for table, part in zip(tables, parts, strict=True)]
        states = self.dropout(self.norm(torch.cat(initial)))
        for layer in self.layers:
            states = layer(states, graph)
        last: Tensor = states[graph.last]
        return last
