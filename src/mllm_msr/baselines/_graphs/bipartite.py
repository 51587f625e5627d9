"""Users and items as nodes of one graph for each modality: what `mmgcn.py` and `mgat.py` share.

A modality's network starts from a learned preference for each user and a projection of each
item's content vector; each layer gathers neighbours (the one thing in which the two baselines
differ), and adds the node's own state and its id embedding. Modalities are averaged; the score is
an inner product.

A user is a node through his visible history. After training the items' states of every layer are
kept, so that a user's state is a function of his own embeddings and of the history that he is
scored with: for the history seen in training it equals that of the trained graph, for users that
training never saw the mean embeddings stand in, and an item that nobody has chosen is its content
and the mean id embedding. So everybody is served by the same formula.
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

# Per modality, the items' states [n_codes, width] that go into each layer and the last ones.
ItemStates = list[list[Tensor]]


@dataclass(frozen=True, slots=True)
class Bipartite:
    """Who chose what, in both directions.

    Attributes:
        to_users: Edges from items to users.
        to_items: Edges from users to items.
    """

    to_users: Edges
    to_items: Edges

    @classmethod
    def of(cls, histories: Histories, *, n_items: int) -> Self:
        """The graph of all histories; history h belongs to user h, repetitions count once.

        Args:
            histories: Item codes of each user.
            n_items: Number of item codes.
        """
        users, items = distinct_pairs(histories)
        n_users = len(histories)
        return cls(
            to_users=Edges.between(items, users, n_sources=n_items, n_targets=n_users),
            to_items=Edges.between(users, items, n_sources=n_users, n_targets=n_items),
        )

    def to(self, device: torch.device | str) -> Self:
        """The same graph on a device."""
        return type(self)(self.to_users.to(device), self.to_items.to(device))


def distinct_pairs(histories: Histories) -> tuple[Codes, Codes]:
    """Histories' numbers and their items, each pair once, in ascending order."""
    owners = np.repeat(np.arange(len(histories)), histories.lengths)
    pairs = np.unique(np.stack([owners, histories.items]), axis=1)
    return pairs[0], pairs[1]


class NodeLayer(nn.Module):
    """One step: what the neighbours send, the node's own state and its id embedding.

    Args:
        aggregate: Called with (edges, targets' states, sources' states); yields what each target
            gathers, [n_targets, width].
        width: Size of a state.
    """

    def __init__(self, aggregate: nn.Module, width: int) -> None:
        super().__init__()
        self.aggregate = aggregate
        self.own = nn.Linear(width, width)
        self.gathered = nn.Linear(width, width)

    def forward(self, edges: Edges, targets: Tensor, sources: Tensor, ids: Tensor) -> Tensor:
        """New states of the targets.

        Args:
            edges: Edges from sources to targets.
            targets: [n_targets, width].
            sources: [n_sources, width].
            ids: Id embeddings of the targets, [n_targets, width].

        Returns:
            [n_targets, width].
        """
        own = functional.leaky_relu(self.own(targets)) + ids
        gathered = self.gathered(self.aggregate(edges, targets, sources))
        return functional.leaky_relu(gathered + own)


class Modality(nn.Module):
    """Preferences, projection and layers of one modality.

    Args:
        features: Content vectors by item code, [n_codes, d]; frozen, not part of the state.
        n_users: Number of users.
        width: Size of a state.
        layers: The layers.
    """

    features: Tensor

    def __init__(
        self, features: Tensor, n_users: int, *, width: int, layers: Sequence[NodeLayer]
    ) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.preferences = nn.Parameter(0.1 * torch.randn(n_users, width))
        self.project = nn.Linear(features.shape[1], width)
        self.layers = nn.ModuleList(layers)

    def first_items(self) -> Tensor:
        """States of the items before the first layer, [n_codes, width], of length one."""
        return functional.normalize(self.project(self.features), dim=-1)


class NodeNetwork(nn.Module):
    """All modalities over one graph.

    Args:
        features: Content vectors by item code, one tensor [n_codes, d] for each modality.
        n_users: Number of users that are nodes.
        width: Size of a state.
        n_layers: Steps along the edges, at least 1.
        aggregate: Makes one layer's `NodeLayer.aggregate`.
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
            Modality(
                each,
                n_users,
                width=width,
                layers=[NodeLayer(aggregate(width), width) for _ in range(n_layers)],
            )
            for each in features
        )

    def forward(self, graph: Bipartite) -> tuple[Tensor, Tensor]:
        """Vectors of all users, [n_users, width], and of all items, [n_codes, width]."""
        users, states = self._propagate(graph)
        return users, item_vectors(states)

    def squares(self, users: Tensor, items: Tensor) -> Tensor:
        """Half the sum of the squared embeddings of some users and items, for the L2 term."""
        tables = [self.user_ids, *(modality.preferences for modality in self._all())]
        squares = [table[users].square().sum() for table in tables]
        return 0.5 * (torch.stack(squares).sum() + self.item_ids[items].square().sum())

    @torch.no_grad()
    def item_states(self, graph: Bipartite) -> ItemStates:
        """The items' states in every layer, for `fold_in`."""
        return self._propagate(graph)[1]

    def _all(self) -> list[Modality]:
        return cast("list[Modality]", list(self.modalities))

    def _propagate(self, graph: Bipartite) -> tuple[Tensor, ItemStates]:
        last_users, states = [], []
        for modality in self._all():
            users = functional.normalize(modality.preferences, dim=-1)
            items = [modality.first_items()]
            for layer in modality.layers:
                new = layer(graph.to_items, items[-1], users, self.item_ids)
                users = layer(graph.to_users, users, items[-1], self.user_ids)
                items.append(new)
            last_users.append(users)
            states.append(items)
        return torch.stack(last_users).mean(0), states

    @torch.no_grad()
    def fold_in(self, users: Tensor, to_users: Edges, states: ItemStates) -> Tensor:
        """Vectors of users as their histories make them, the items' states being given.

        Args:
            users: int64 [n]; rows of known users, -1 for others.
            to_users: Edges from items to the n users.
            states: What `item_states` gave.

        Returns:
            [n, width].
        """
        ids = _rows_or_mean(self.user_ids, users)
        last = []
        for modality, items in zip(self._all(), states, strict=True):
            preferences = functional.normalize(modality.preferences, dim=-1)
            vectors = _rows_or_mean(preferences, users)
            for layer, sources in zip(modality.layers, items, strict=False):
                vectors = layer(to_users, vectors, sources, ids)
            last.append(vectors)
        return torch.stack(last).mean(0)


def item_vectors(states: ItemStates) -> Tensor:
    """What items are scored with: [n_codes, width], the mean over modalities."""
    return torch.stack([items[-1] for items in states]).mean(0)


def _rows_or_mean(table: Tensor, rows: Tensor) -> Tensor:
    known = table[rows.clamp(min=0)]
    return torch.where((rows >= 0)[:, None], known, table.mean(0))


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking: how surely the positive stands above each negative.

    Args:
        positive: Scores of the chosen items, [n, 1].
        negative: Scores of drawn items, [n, n_negatives].

    Returns:
        A scalar, the mean of -log sigmoid(positive - negative).
    """
    return functional.softplus(negative - positive).mean()
