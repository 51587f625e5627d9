"""Input of MMSR: one graph per history, with the graphs of a batch merged into one edge list.

Nodes are the distinct items of a history and the distinct clusters of their modalities. Edges
connect nodes of one kind along the history (relations self, in, out, both) and nodes of different
kinds that describe the same item. Histories of different lengths need no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from mllm_msr.baselines._graphs.edges import Edges
from mllm_msr.baselines._training.histories import Codes, Histories

RELATIONS: Final = ("self", "in", "out", "both")


@dataclass(frozen=True, slots=True)
class SequenceGraph:
    """Graphs of several histories, merged into one graph.

    Attributes:
        content: int64 [n_nodes]; an item code or a cluster index.
        kind_sizes: Nodes of each kind. Nodes are grouped by kind: items first, then the clusters
            of each modality.
        relations: Edges between nodes of one kind, by the names of `RELATIONS`: "in" leads from
            the preceding node, "out" from the following node, "both" from nodes that both precede
            and follow.
        links: Edges between nodes of different kinds.
        last: int64 [n_histories]; the node of the last item of each history.
    """

    content: Tensor
    kind_sizes: tuple[int, ...]
    relations: dict[str, Edges]
    links: Edges
    last: Tensor

    def to(self, device: torch.device | str) -> SequenceGraph:
        """Copy the graphs to a device."""
        return SequenceGraph(
            content=self.content.to(device),
            kind_sizes=self.kind_sizes,
            relations={name: edges.to(device) for name, edges in self.relations.items()},
            links=self.links.to(device),
            last=self.last.to(device),
        )


def sequence_graph(histories: Histories, clusters: Sequence[Codes]) -> SequenceGraph:
    """Build the graphs of histories.

    Args:
        histories: Item codes of non-empty histories.
        clusters: For each modality, clusters by item code, [n_codes, n_links]; -1 for none.
    """
    owners = np.repeat(np.arange(len(histories)), histories.lengths)
    # Per kind of node, the items or clusters of each step: [n_tokens, 1] or [n_tokens, n_links].
    steps = [histories.items[:, None], *(table[histories.items] for table in clusters)]
    content, nodes, sizes = _number_nodes(owners, steps, n_histories=len(histories))
    n_nodes = len(content)
    followed = np.flatnonzero(owners[1:] == owners[:-1])
    along = [_all_pairs(kind[followed], kind[followed + 1]) for kind in nodes]
    before, after = (np.concatenate(ends) for ends in zip(*along, strict=True))
    across = [
        _all_pairs(nodes[one], nodes[other])
        for one in range(len(nodes))
        for other in range(len(nodes))
        if one != other
    ]
    sources, targets = (np.concatenate(ends) for ends in zip(*across, strict=True))
    sources, targets = _distinct(sources, targets, n_nodes)
    return SequenceGraph(
        content=torch.from_numpy(content),
        kind_sizes=sizes,
        relations=_relations(before, after, n_nodes),
        links=Edges.between(sources, targets, n_sources=n_nodes, n_targets=n_nodes),
        last=torch.from_numpy(nodes[0][histories.starts[1:] - 1, 0]),
    )


def _number_nodes(
    owners: Codes, steps: Sequence[Codes], *, n_histories: int
) -> tuple[Codes, list[Codes], tuple[int, ...]]:
    """Number the distinct items and clusters of each history; -1 stays -1."""
    contents, nodes, first = [], [], 0
    for kind in steps:
        width = int(kind.max(initial=0)) + 1
        keys = np.where(kind >= 0, owners[:, None] * width + kind, n_histories * width)
        distinct, numbers = np.unique(keys, return_inverse=True)
        distinct = distinct[distinct < n_histories * width]
        nodes.append(np.where(kind >= 0, numbers.reshape(kind.shape) + first, -1))
        contents.append(distinct % width)
        first += len(distinct)
    return np.concatenate(contents), nodes, tuple(len(kind) for kind in contents)


def _all_pairs(ones: Codes, others: Codes) -> tuple[Codes, Codes]:
    """Pair every node of `ones` [n, a] with every node of `others` [n, b] of the same row."""
    left = np.broadcast_to(ones[:, :, None], (*ones.shape, others.shape[1])).ravel()
    right = np.broadcast_to(others[:, None, :], (*ones.shape, others.shape[1])).ravel()
    present = (left >= 0) & (right >= 0)
    return left[present], right[present]


def _distinct(sources: Codes, targets: Codes, n_nodes: int) -> tuple[Codes, Codes]:
    keys = np.unique(sources * n_nodes + targets)
    return keys // n_nodes, keys % n_nodes


def _relations(before: Codes, after: Codes, n_nodes: int) -> dict[str, Edges]:
    """Sort the pairs of consecutive nodes into relations."""
    differ = before != after
    before, after = _distinct(before[differ], after[differ], n_nodes)
    both = np.isin(before * n_nodes + after, after * n_nodes + before)
    every = np.arange(n_nodes)
    ends = {
        "self": (every, every),
        "in": (before[~both], after[~both]),
        "out": (after[~both], before[~both]),
        "both": (before[both], after[both]),
    }
    return {
        name: Edges.between(*ends[name], n_sources=n_nodes, n_targets=n_nodes) for name in RELATIONS
    }
