"""Differentiable sums, inner products and softmax along the edges of a graph.

The graph baselines (MMGCN, MGAT, MMSR) are built from three operations on edge lists. Memory grows
with the number of edges, not with edges x width: each operation and each gradient is a fused
kernel of PyTorch (a weighted embedding bag, or sampled inner products), which is about 50 times
faster than gather and scatter. Only PyTorch is needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Edges:
    """Edges from sources to targets, sorted by target.

    Attributes:
        starts: int64 [n_targets + 1]; edges `starts[t]` to `starts[t + 1]` lead to target t.
        sources: int64 [n_edges]; source of each edge.
        targets: int64 [n_edges]; target of each edge, ascending.
        n_sources: Number of source nodes.
        reverse_starts: `starts` of the reversed graph.
        reverse_order: int64 [n_edges]; indices of the edges sorted by source.
    """

    starts: Tensor
    sources: Tensor
    targets: Tensor
    n_sources: int
    reverse_starts: Tensor
    reverse_order: Tensor

    @classmethod
    def between(cls, sources: Indices, targets: Indices, *, n_sources: int, n_targets: int) -> Self:
        """Build edges from their endpoints; the order of the edges is not preserved.

        Args:
            sources: Shape [n_edges]; values in [0, n_sources).
            targets: Shape [n_edges]; values in [0, n_targets).
            n_sources: Number of source nodes.
            n_targets: Number of target nodes.
        """
        order = np.lexsort((sources, targets))
        sources, targets = sources[order], targets[order]
        reverse_order = np.argsort(sources, kind="stable")
        target_ids, source_ids = np.arange(n_targets + 1), np.arange(n_sources + 1)
        return cls(
            starts=torch.from_numpy(np.searchsorted(targets, target_ids)),
            sources=torch.from_numpy(sources.astype(np.int64)),
            targets=torch.from_numpy(targets.astype(np.int64)),
            n_sources=n_sources,
            reverse_starts=torch.from_numpy(np.searchsorted(sources[reverse_order], source_ids)),
            reverse_order=torch.from_numpy(reverse_order.astype(np.int64)),
        )

    def to(self, device: torch.device | str) -> Self:
        """Copy the edges to a device."""
        return type(self)(
            starts=self.starts.to(device),
            sources=self.sources.to(device),
            targets=self.targets.to(device),
            n_sources=self.n_sources,
            reverse_starts=self.reverse_starts.to(device),
            reverse_order=self.reverse_order.to(device),
        )

    @property
    def n_targets(self) -> int:
        """Return the number of target nodes."""
        return len(self.starts) - 1

    def mean_weights(self) -> Tensor:
        """Return 1 over the in-degree of each edge's target, float32 [n_edges]."""
        counts = (self.starts[1:] - self.starts[:-1]).to(torch.float32)
        return 1.0 / counts[self.targets]


def edge_sum(edges: Edges, weights: Tensor, x: Tensor) -> Tensor:
    """Sum the weighted vectors of the sources over each target's edges.

    Args:
        edges: The graph.
        weights: Float [n_edges].
        x: Vectors of the sources, float [n_sources, width].

    Returns:
        Float32 [n_targets, width]; zero for targets without edges.
    """
    # Sums over thousands of neighbors need float32, even under autocast.
    summed: Tensor = _Sum.apply(weights.float(), x.float(), edges)  # type: ignore[no-untyped-call]
    return summed


def edge_dot(edges: Edges, x: Tensor, y: Tensor) -> Tensor:
    """Compute the inner product of the endpoints of each edge.

    Args:
        edges: The graph.
        x: Vectors of the targets, float [n_targets, width].
        y: Vectors of the sources, float [n_sources, width].

    Returns:
        Float32 [n_edges].
    """
    products: Tensor = _Dot.apply(x.float(), y.float(), edges)  # type: ignore[no-untyped-call]
    return products


def edge_softmax(edges: Edges, logits: Tensor) -> Tensor:
    """Compute the softmax over the edges of each target.

    Args:
        edges: The graph.
        logits: Float [n_edges].

    Returns:
        Float32 [n_edges]; sums to 1 for each target with edges.
    """
    logits = logits.float()
    highest = logits.new_full((edges.n_targets,), -torch.inf)
    highest = highest.scatter_reduce(0, edges.targets, logits.detach(), "amax")
    powers = torch.exp(logits - highest[edges.targets])
    sums = powers.new_zeros(edges.n_targets).index_add(0, edges.targets, powers)
    return powers / sums[edges.targets]


def edge_attention(lists: Sequence[Edges], logits: Sequence[Tensor], values: Tensor) -> Tensor:
    """Sum the values weighted by a softmax over all edges of a target, across several edge lists.

    Args:
        lists: Edges of several relations between the same nodes.
        logits: For each list, float [n_edges].
        values: Float [n_sources, width].

    Returns:
        Float32 [n_targets, width]; zero for targets without edges.
    """
    highest = values.new_full((lists[0].n_targets,), -torch.inf, dtype=torch.float32)
    for edges, own in zip(lists, logits, strict=True):
        highest = highest.scatter_reduce(0, edges.targets, own.detach(), "amax")
    totals = torch.zeros_like(highest)
    sums = values.new_zeros((len(highest), values.shape[1]), dtype=torch.float32)
    for edges, own in zip(lists, logits, strict=True):
        powers = torch.exp(own - highest[edges.targets])
        totals = totals.index_add(0, edges.targets, powers)
        sums = sums + edge_sum(edges, powers, values)
    return sums / totals.clamp(min=torch.finfo(torch.float32).tiny)[:, None]


def _bag(weights: Tensor, x: Tensor, indices: Tensor, starts: Tensor) -> Tensor:
    """Sum weighted rows of `x` over consecutive bags of indices."""
    if not len(indices):
        return x.new_zeros(len(starts) - 1, x.shape[1])
    return embedding_bag(
        indices, x, starts, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def _reverse_sum(edges: Edges, weights: Tensor, x: Tensor) -> Tensor:
    """Compute `edge_sum` of the reversed graph; weights are in the order of the edges."""
    order = edges.reverse_order
    return _bag(weights[order], x, edges.targets[order], edges.reverse_starts)


def _products(edges: Edges, x: Tensor, y: Tensor) -> Tensor:
    # PyTorch warns once per process that the format is in beta; users cannot act on that.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        pattern = torch.sparse_csr_tensor(
            edges.starts,
            edges.sources,
            x.new_zeros(len(edges.sources)),
            size=(edges.n_targets, edges.n_sources),
            check_invariants=False,
        )
    products: Tensor = torch.sparse.sampled_addmm(pattern, x, y.T).values()
    return products


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, edges: Edges) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(weights, x)
        return _bag(weights, x, edges.sources, edges.starts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weights, x = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_weights, to_x, _ = ctx.needs_input_grad
        return (
            _products(ctx.edges, gradient, x) if to_weights else None,
            _reverse_sum(ctx.edges, weights, gradient) if to_x else None,
            None,
        )


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, edges: Edges) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(x, y)
        return _products(edges, x, y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y = ctx.saved_tensors
        edges, gradient = ctx.edges, gradient.contiguous()
        to_x, to_y, _ = ctx.needs_input_grad
        return (
            _bag(gradient, y, edges.sources, edges.starts) if to_x else None,
            _reverse_sum(edges, gradient, x) if to_y else None,
            None,
        )
