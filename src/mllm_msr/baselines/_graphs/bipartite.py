"""User-item graph of each modality, and the network that MMGCN and MGAT share.

The network of a modality starts from a learned preference of each user and a projection of each
item's content vector. Each layer aggregates the neighbors (the only difference between the two
baselines) and combines the result with the node's own state and its id embedding. Modalities are
averaged; the score is an inner product.

A user is a node connected to the items of their visible history. After training, the item states
of every layer are stored, so that the state of a user becomes a function of their own embeddings
and of the history they are scored with (fold-in). For the training history it equals the state in
the trained graph. Unknown users get the mean embeddings; items without interactions have their
content and the mean id embedding. The same formula therefore scores all users and items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mllm_msr.baselines._graphs.edges import Edges
from mllm_msr.baselines._training.histories import Codes, Histories

# For each modality, the item states [n_codes, width] before each layer and after the last one.
ItemStates = list[list[Tensor]]


@dataclass(frozen=True, slots=True)
class BipartiteGraph:
    """Interactions of users and items as edges in both directions.

    Attributes:
        to_users: Edges from items to users.
        to_items: Edges from users to items.
    """

    to_users: Edges
    to_items: Edges

    @classmethod
    def from_histories(cls, histories: Histories, *, n_items: int) -> Self:
        """Build the graph of all histories; repeated interactions count once.

        Args:
            histories: Item codes of each user; history h belongs to user h.
            n_items: Number of item codes.
        """
        users, items = distinct_pairs(histories)
        n_users = len(histories)
        return cls(
            to_users=Edges.between(items, users, n_sources=n_items, n_targets=n_users),
            to_items=Edges.between(users, items, n_sources=n_users, n_targets=n_items),
        )

    def to(self, device: torch.device | str) -> Self:
        """Copy the graph to a device."""
        return type(self)(self.to_users.to(device), self.to_items.to(device))


def distinct_pairs(histories: Histories) -> tuple[Codes, Codes]:
    """Return the distinct pairs of history index and item code, in ascending order."""
    owners = np.repeat(np.arange(len(histories)), histories.lengths)
    pairs = np.unique(np.stack([owners, histories.items]), axis=1)
    return pairs[0], pairs[1]


class GraphLayer(nn.Module):
    """Aggregation of the neighbors, combined with the node's own state and id embedding.

    Args:
        aggregate: Module called with (edges, states of targets, states of sources); returns the
            aggregated states, [n_targets, width].
        width: Size of a state.
    """

    def __init__(self, aggregate: nn.Module, width: int) -> None:
        super().__init__()
        self.aggregate = aggregate
        self.own = nn.Linear(width, width)
        self.gathered = nn.Linear(width, width)

    def forward(self, edges: Edges, targets: Tensor, sources: Tensor, ids: Tensor) -> Tensor:
        """Compute new states of the targets.

        Args:
            edges: Edges from sources to targets.
            targets: [n_targets, width].
            sources: [n_sources, width].
            ids: Id embeddings of the targets, [n_targets, width].

        Returns:
            Shape [n_targets, width].
        """
        own = functional.leaky_relu(self.own(targets)) + ids
        gathered = self.gathered(self.aggregate(edges, targets, sources))
        return functional.leaky_relu(gathered + own)


class ModalityBranch(nn.Module):
    """User preferences, content projection and layers of one modality.

    Args:
        features: Content vectors by item code, [n_codes, d]; frozen, not saved in the state dict.
        n_users: Number of users.
        width: Size of a state.
        layers: The layers.
    """

    features: Tensor

    def __init__(
        self, features: Tensor, n_users: int, *, width: int, layers: Sequence[GraphLayer]
    ) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.preferences = nn.Parameter(0.1 * torch.randn(n_users, width))
        self.project = nn.Linear(features.shape[1], width)
        self.layers = nn.ModuleList(layers)

    def initial_item_states(self) -> Tensor:
        """Compute the item states before the first layer, [n_codes, width], of unit length."""
        return functional.normalize(self.project(self.features), dim=-1)


class GraphNetwork(nn.Module):
    """Branches of all modalities over one user-item graph.

    Args:
        features: Content vectors by item code, one tensor [n_codes, d] per modality.
        n_users: Number of users in the graph.
        width: Size of a state.
        n_layers: Layers per modality, at least 1.
        aggregate: Returns the aggregation module of one layer for a given width.
    """

    def __init__(
        self,
        features: Sequence[Tensor],
        n_users: int,
        *,
        width: int,
        n_layers: int,
        aggregate: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.user_ids = nn.Parameter(0.1 * torch.randn(n_users, width))
        self.item_ids = nn.Parameter(0.1 * torch.randn(len(features[0]), width))
        self.modalities = nn.ModuleList(
            ModalityBranch(
                each,
                n_users,
                width=width,
                layers=[GraphLayer(aggregate(width), width) for _ in range(n_layers)],
            )
            for each in features
        )

    def forward(self, graph: BipartiteGraph) -> tuple[Tensor, Tensor]:
        """Compute the vectors of all users, [n_users, width], and items, [n_codes, width]."""
        users, states = self._propagate(graph)
        return users, item_vectors(states)

    def l2_penalty(self, users: Tensor, items: Tensor) -> Tensor:
        """Compute half the sum of the squared embeddings of some users and items."""
        tables = [self.user_ids, *(branch.preferences for branch in self._branches())]
        squares = [table[users].square().sum() for table in tables]
        return 0.5 * (torch.stack(squares).sum() + self.item_ids[items].square().sum())

    @torch.no_grad()
    def item_states(self, graph: BipartiteGraph) -> ItemStates:
        """Compute the item states in every layer, for `fold_in`."""
        return self._propagate(graph)[1]

    @torch.no_grad()
    def fold_in(self, users: Tensor, to_users: Edges, states: ItemStates) -> Tensor:
        """Compute user vectors from histories and fixed item states.

        Args:
            users: int64 [n]; rows of known users, -1 for unknown users.
            to_users: Edges from items to the n users.
            states: Result of `item_states`.

        Returns:
            Shape [n, width].
        """
        ids = _rows_or_mean(self.user_ids, users)
        last = []
        for branch, items in zip(self._branches(), states, strict=True):
            preferences = functional.normalize(branch.preferences, dim=-1)
            vectors = _rows_or_mean(preferences, users)
            for layer, sources in zip(branch.layers, items, strict=False):
                vectors = layer(to_users, vectors, sources, ids)
            last.append(vectors)
        return torch.stack(last).mean(0)

    def _branches(self) -> list[ModalityBranch]:
        return cast("list[ModalityBranch]", list(self.modalities))

    def _propagate(self, graph: BipartiteGraph) -> tuple[Tensor, ItemStates]:
        """Return the user vectors and the item states in every layer."""
        last_users, states = [], []
        for branch in self._branches():
            users = functional.normalize(branch.preferences, dim=-1)
            items = [branch.initial_item_states()]
            for layer in branch.layers:
                new = layer(graph.to_items, items[-1], users, self.item_ids)
                users = layer(graph.to_users, users, items[-1], self.user_ids)
                items.append(new)
            last_users.append(users)
            states.append(items)
        return torch.stack(last_users).mean(0), states


def item_vectors(states: ItemStates) -> Tensor:
    """Average the last states over modalities to item vectors, [n_codes, width]."""
    return torch.stack([items[-1] for items in states]).mean(0)


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Compute the loss of Bayesian personalized ranking (Rendle et al. 2009).

    Args:
        positive: Scores of positive items, [n, 1].
        negative: Scores of sampled negatives, [n, n_negatives].

    Returns:
        A scalar, the mean of -log sigmoid(positive - negative).
    """
    return functional.softplus(negative - positive).mean()


def _rows_or_mean(table: Tensor, rows: Tensor) -> Tensor:
    """Select rows of a table; -1 selects the mean row."""
    known = table[rows.clamp(min=0)]
    return torch.where((rows >= 0)[:, None], known, table.mean(0))
