"""Training and scoring of the two baselines on the graph of users and items, `mmgcn.py` and `mgat.py`.

Every step runs the whole graph and compares, for a batch of interactions, the chosen item with
items drawn among those that somebody chose: what nobody chose is never pushed away, and is ranked
by its content. The loss is Bayesian personalised ranking with an L2 term on the embeddings that
a batch touches, as in both papers.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from mllm_msr.baselines._content.recommender import Arrays, TrainingContext
from mllm_msr.baselines._content.tensors import settle_unchosen
from mllm_msr.baselines._content.vector_scores import Floats, VectorBaseline, VectorModel
from mllm_msr.baselines._graphs.bipartite import (
    Bipartite,
    ItemStates,
    NodeNetwork,
    bpr_loss,
    distinct_pairs,
    item_vectors,
)
from mllm_msr.baselines._graphs.edges import Edges
from mllm_msr.baselines._shared.state import State
from mllm_msr.baselines._training.checks import too_small
from mllm_msr.baselines._training.histories import Histories, ItemCodes, histories_before
from mllm_msr.baselines._training.sampling import NegativeItems
from mllm_msr.baselines._training.trained import TrainingSpec
from mllm_msr.search_space import Choice, Range, Space


class GraphModel(VectorModel):
    """A fitted `NodeNetwork`.

    Args:
        network: The weights.
        codes: Codes of the catalog.
        content: Content by item code.
        users: Users that are nodes of the graph, sorted.
        graph: The graph of what they chose; None for a model that only scores.
        states: The items' states where there is no graph to compute them from.
    """

    network: NodeNetwork

    def __init__(
        self,
        network: NodeNetwork,
        codes: ItemCodes,
        content: Mapping[str, Tensor],
        *,
        users: Sequence[str],
        graph: Bipartite | None = None,
        states: ItemStates | None = None,
    ) -> None:
        super().__init__(network, codes, content)
        self._users = tuple(users)
        self._graph = graph
        self._states = states or []

    def finalize(self) -> None:
        """Give items that nobody chose the mean id embedding."""
        if self._graph is not None:
            settle_unchosen(self.network.item_ids, self._graph.to_items.starts.diff() > 0)

    def update_item_embeddings(self) -> None:
        """Compute the items' states; those of a model that only scores stand."""
        if self._graph is not None:
            device = self.network.user_ids.device
            states = self.network.item_states(self._graph.to(device))
            self._states = [[layer.cpu() for layer in layers] for layers in states]

    def item_vectors(self) -> Floats:
        """Mean over the modalities of the last layer's states."""
        vectors: Floats = item_vectors(self._states).numpy()
        return vectors

    def user_vectors(self, targets: pl.DataFrame, interactions: pl.DataFrame) -> Floats:
        """States of users whose edges are their histories before the target."""
        histories = histories_before(targets, interactions, self.codes)
        owners, items = distinct_pairs(histories)
        edges = Edges.between(items, owners, n_sources=self.codes.n_codes, n_targets=targets.height)
        known = pl.DataFrame({"user_id": self._users}, schema={"user_id": pl.String})
        rows = targets.select("user_id").join(
            known.with_row_index("row"), on="user_id", how="left", maintain_order="left"
        )["row"]
        places = torch.tensor(rows.cast(pl.Int64).fill_null(-1).to_numpy())
        network = self.network
        device = network.user_ids.device
        states = [[layer.to(device) for layer in layers] for layers in self._states]
        folded = network.fold_in(places.to(device), edges.to(device), states)
        vectors: Floats = folded.cpu().numpy()
        return vectors

    def arrays(self) -> Arrays:
        """The items' states and the users' ids, these as the bytes of a JSON list."""
        states = {
            f"states.{modality}.{layer}": tensor.numpy()
            for modality, layers in enumerate(self._states)
            for layer, tensor in enumerate(layers)
        }
        return {**states, "users": np.frombuffer(json.dumps(self._users).encode(), np.uint8)}


@dataclass(kw_only=True, eq=False)
class GraphBaseline(VectorBaseline[GraphModel]):
    """A recommender whose network is a `NodeNetwork`; see `ContentBaseline` for what it shares.

    Attributes:
        n_layers: Steps along the edges, at least 1.
        n_negatives: Items that each chosen one is compared with, at least 1.
        regularisation: Weight of the L2 term, at least 0.
    """

    n_layers: int = 2
    n_negatives: int = 4
    regularisation: float = 1e-4
    usual_step: ClassVar[int] = 8192
    learning_rate: float = 5e-3

    @abstractmethod
    def aggregate(self, width: int) -> nn.Module:
        """How one layer gathers neighbours: `bipartite.NodeLayer.aggregate`."""

    @classmethod
    def space(cls) -> Space:
        """What `mllm-msr tune` searches."""
        return {
            "width": Choice((64, 128)),
            "n_layers": Range(1, 3),
            "n_negatives": Range(1, 8),
            "regularisation": Range(1e-6, 1e-2, log=True),
            "learning_rate": Range(1e-3, 2e-2, log=True),
        }

    def own_problems(self) -> list[str]:
        """One sentence for each setting out of its range."""
        found = too_small(self, "n_layers", "n_negatives")
        if not self.regularisation >= 0:
            found.append(f"regularisation must not be negative, it is {self.regularisation}")
        return found

    def build(self, lessons: TrainingContext) -> GraphModel:
        """A network over the users, and their graph."""
        return GraphModel(
            self._network(lessons.content, len(lessons.users)),
            lessons.codes,
            lessons.content,
            users=lessons.users,
            graph=Bipartite.of(lessons.histories, n_items=lessons.codes.n_codes),
        )

    def restore(self, state: State, codes: ItemCodes, content: Mapping[str, Tensor]) -> GraphModel:
        """A model that scores with the items' states that were saved."""
        users = json.loads(state.arrays["users"].tobytes())
        states = [
            [
                torch.from_numpy(state.arrays[f"states.{modality}.{layer}"])
                for layer in range(self.n_layers + 1)
            ]
            for modality in range(len(content))
        ]
        network = self._network(content, len(users))
        return GraphModel(network, codes, content, users=users, states=states)

    def course(self, fitted: GraphModel, histories: Histories) -> TrainingSpec:
        """Interactions with drawn items, and the loss of both papers."""
        users, items = distinct_pairs(histories)
        sampler = NegativeItems(users, items, n_items=fitted.codes.n_codes)
        graph = Bipartite.of(histories, n_items=fitted.codes.n_codes)
        network = fitted.network
        moved: dict[torch.device, Bipartite] = {}

        def batches(epoch: int) -> list[Tensor]:
            rng = np.random.default_rng([self.seed, epoch])
            rows = rng.permutation(len(users))
            drawn = sampler.draw(users[rows], self.n_negatives, rng)
            table = np.column_stack([users[rows], items[rows], drawn])
            return list(torch.split(torch.from_numpy(table), self.step_size(len(table))))

        def loss(batch: Tensor) -> Tensor:
            if batch.device not in moved:
                moved[batch.device] = graph.to(batch.device)
            return self._loss(network, moved[batch.device], batch)

        return TrainingSpec(batches, loss)

    def _network(self, content: Mapping[str, Tensor], n_users: int) -> NodeNetwork:
        return NodeNetwork(
            [content[name] for name in sorted(content)],
            n_users,
            width=self.width,
            n_layers=self.n_layers,
            aggregate=self.aggregate,
        )

    def _loss(self, network: NodeNetwork, graph: Bipartite, batch: Tensor) -> Tensor:
        """Batch: users, chosen items and drawn items, [n, 2 + n_negatives]."""
        user_table, item_table = network(graph)
        users, items = batch[:, 0], batch[:, 1:]
        products = (user_table[users, None] * item_table[items]).float().sum(-1)
        loss = bpr_loss(products[:, :1], products[:, 1:])
        if self.regularisation:
            loss = loss + self.regularisation * network.squares(users, items) / len(batch)
        return loss
