"""Sums, inner products and softmax along the edges of a graph, with gradients.

The graph baselines (`mmgcn.py`, `mgat.py`, `mmsr.py`) are made of three operations on edge lists.
Memory grows with the edges alone, never with edges x width: each operation and each gradient is a
fused kernel of PyTorch (a weighted bag of embeddings, or inner products at given places), which
took a fiftieth of the time of gathering and adding. Nothing beyond PyTorch is needed.
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

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Edges:
    """Edges from sources to targets, sorted by target.

    Attributes:
        starts: int64 [n_targets + 1]; the edges into target t are starts[t] to starts[t + 1].
        sources: int64 [n_edges]; where each edge comes from.
        targets: int64 [n_edges]; where each edge goes, ascending.
        n_sources: Number of nodes that edges may come from.
        back_starts: `starts` of the graph with all edges turned round.
        back_order: int64 [n_edges]; the edges sorted by source.
    """

    starts: Tensor
    sources: Tensor
    targets: Tensor
    n_sources: int
    back_starts: Tensor
    back_order: Tensor

    @classmethod
    def between(cls, sources: Places, targets: Places, *, n_sources: int, n_targets: int) -> Self:
        """Edges given by their two ends, in any order; the order is not kept.

        Args:
            sources: Shape [n_edges]; values in [0, n_sources).
            targets: Shape [n_edges]; values in [0, n_targets).
            n_sources: Number of sources.
            n_targets: Number of targets.
        """
        order = np.lexsort((sources, targets))
        sources, targets = sources[order], targets[order]
        back_order = np.argsort(sources, kind="stable")
        ends = np.arange(n_targets + 1), np.arange(n_sources + 1)
        return cls(
            starts=torch.from_numpy(np.searchsorted(targets, ends[0])),
            sources=torch.from_numpy(sources.astype(np.int64)),
            targets=torch.from_numpy(targets.astype(np.int64)),
            n_sources=n_sources,
            back_starts=torch.from_numpy(np.searchsorted(sources[back_order], ends[1])),
            back_order=torch.from_numpy(back_order.astype(np.int64)),
        )

    def to(self, device: torch.device | str) -> Self:
        """The same edges on a device."""
        return type(self)(
            starts=self.starts.to(device),
            sources=self.sources.to(device),
            targets=self.targets.to(device),
            n_sources=self.n_sources,
            back_starts=self.back_starts.to(device),
            back_order=self.back_order.to(device),
        )

    @property
    def n_targets(self) -> int:
        """Number of nodes that edges may go to."""
        return len(self.starts) - 1

    def mean_weights(self) -> Tensor:
        """Float32 [n_edges]; one over the number of edges into the same target."""
        counts = (self.starts[1:] - self.starts[:-1]).to(torch.float32)
        return 1.0 / counts[self.targets]


def edge_sum(edges: Edges, weights: Tensor, x: Tensor) -> Tensor:
    """Weighted sums over each target's edges.

    Args:
        edges: The graph.
        weights: Float [n_edges].
        x: Float [n_sources, width]; what the sources send.

    Returns:
        Float32 [n_targets, width]; zero where no edge goes.
    """
    # Sums over thousands of neighbours are not for half precision, whatever the caller runs in.
    summed: Tensor = _Sum.apply(weights.float(), x.float(), edges)  # type: ignore[no-untyped-call]
    return summed


def edge_dot(edges: Edges, x: Tensor, y: Tensor) -> Tensor:
    """Inner products of the two ends of each edge.

    Args:
        edges: The graph.
        x: Float [n_targets, width].
        y: Float [n_sources, width].

    Returns:
        Float32 [n_edges].
    """
    products: Tensor = _Dot.apply(x.float(), y.float(), edges)  # type: ignore[no-untyped-call]
    return products


def edge_softmax(edges: Edges, logits: Tensor) -> Tensor:
    """Softmax over the edges into each target.

    Args:
        edges: The graph.
        logits: Float [n_edges].

    Returns:
        Float32 [n_edges]; sums to one over each target that has edges.
    """
    logits = logits.float()
    highest = logits.new_full((edges.n_targets,), -torch.inf)
    highest = highest.scatter_reduce(0, edges.targets, logits.detach(), "amax")
    powers = torch.exp(logits - highest[edges.targets])
    sums = powers.new_zeros(edges.n_targets).index_add(0, edges.targets, powers)
    return powers / sums[edges.targets]


def edge_attention(lists: Sequence[Edges], logits: Sequence[Tensor], values: Tensor) -> Tensor:
    """Sums weighted by a softmax over all edges into a target, whichever list they stand in.

    Args:
        lists: Edges of several relations between the same nodes.
        logits: For each list, float [n_edges].
        values: Float [n_sources, width].

    Returns:
        Float32 [n_targets, width]; zero where no edge goes.
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


def _bag(weights: Tensor, x: Tensor, places: Tensor, starts: Tensor) -> Tensor:
    if not len(places):
        return x.new_zeros(len(starts) - 1, x.shape[1])
    return embedding_bag(
        places, x, starts, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def _products(edges: Edges, x: Tensor, y: Tensor) -> Tensor:
    # PyTorch calls the format a beta once per process; nobody who trains can act on that.
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


def _back(edges: Edges, weights: Tensor, x: Tensor) -> Tensor:
    """`edge_sum` with all edges turned round; weights stay in the order of the edges."""
    order = edges.back_order
    return _bag(weights[order], x, edges.targets[order], edges.back_starts)


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
            _back(ctx.edges, weights, gradient) if to_x else None,
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
            _back(edges, gradient, x) if to_y else None,
            None,
        )
