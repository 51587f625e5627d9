"""Base of MMGCN and MGAT: training and scoring on the user-item graph.

Every step computes the whole graph and compares, for a batch of interactions, the positive item
with negatives sampled among the items with interactions. Items without interactions are ranked by
their content. The loss is Bayesian personalized ranking with an L2 term on the embeddings that a
batch uses, as in both papers.
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

from mllm_msr.baselines._content.content_baseline import Arrays, TrainingContext
from mllm_msr.baselines._content.tensors import fill_cold_embeddings
from mllm_msr.baselines._content.vector_baseline import Floats, VectorBaseline, VectorModel
from mllm_msr.baselines._graphs.bipartite import (
    BipartiteGraph,
    GraphNetwork,
    ItemStates,
    bpr_loss,
    distinct_pairs,
    item_vectors,
)
from mllm_msr.baselines._graphs.edges import Edges
from mllm_msr.baselines._shared.state import State
from mllm_msr.baselines._training.checks import too_small
from mllm_msr.baselines._training.histories import Histories, ItemCodes, histories_before
from mllm_msr.baselines._training.neural_baseline import TrainingSpec
from mllm_msr.baselines._training.sampling import NegativeItems
from mllm_msr.search_space import Choice, Range, Space


class GraphModel(VectorModel):
    """Fitted `GraphNetwork`.

    Args:
        network: The network.
        codes: Item codes of the catalog.
        content: Content by item code.
        users: Users in the graph, sorted.
        graph: Graph of the training interactions; None for a loaded model, which only scores.
        states: Item states of a loaded model.
    """

    network: GraphNetwork

    def __init__(
        self,
        network: GraphNetwork,
        codes: ItemCodes,
        content: Mapping[str, Tensor],
        *,
        users: Sequence[str],
        graph: BipartiteGraph | None = None,
        states: ItemStates | None = None,
    ) -> None:
        super().__init__(network, codes, content)
        self._users = tuple(users)
        self._graph = graph
        self._states = states or []

    def finalize(self) -> None:
        """Give items without interactions the mean id embedding."""
        if self._graph is not None:
            has_interactions = self._graph.to_items.starts.diff() > 0
            fill_cold_embeddings(self.network.item_ids, has_interactions)

    def update_item_embeddings(self) -> None:
        """Recompute the item states; those of a loaded model are fixed."""
        if self._graph is not None:
            device = self.network.user_ids.device
            states = self.network.item_states(self._graph.to(device))
            self._states = [[layer.cpu() for layer in layers] for layers in states]

    def item_vectors(self) -> Floats:
        """Average the states of the last layer over modalities."""
        vectors: Floats = item_vectors(self._states).numpy()
        return vectors

    def user_vectors(self, targets: pl.DataFrame, interactions: pl.DataFrame) -> Floats:
        """Compute user states from the histories before the targets."""
        histories = histories_before(targets, interactions, self.codes)
        owners, items = distinct_pairs(histories)
        edges = Edges.between(items, owners, n_sources=self.codes.n_codes, n_targets=targets.height)
        known = pl.DataFrame({"user_id": self._users}, schema={"user_id": pl.String})
        rows = targets.select("user_id").join(
            known.with_row_index("row"), on="user_id", how="left", maintain_order="left"
        )["row"]
        user_rows = torch.tensor(rows.cast(pl.Int64).fill_null(-1).to_numpy())
        device = self.network.user_ids.device
        states = [[layer.to(device) for layer in layers] for layers in self._states]
        folded = self.network.fold_in(user_rows.to(device), edges.to(device), states)
        vectors: Floats = folded.cpu().numpy()
        return vectors

    def arrays(self) -> Arrays:
        """Return the item states, and the user ids as the bytes of a JSON list."""
        states = {
            f"states.{modality}.{layer}": tensor.numpy()
            for modality, layers in enumerate(self._states)
            for layer, tensor in enumerate(layers)
        }
        return {**states, "users": np.frombuffer(json.dumps(self._users).encode(), np.uint8)}


@dataclass(kw_only=True, eq=False)
class GraphBaseline(VectorBaseline[GraphModel]):
    """Recommender with a `GraphNetwork`; `ContentBaseline` has further settings.

    Attributes:
        n_layers: Graph layers, at least 1.
        n_negatives: Sampled negatives per positive, at least 1.
        regularization: Weight of the L2 term, at least 0.
    """

    n_layers: int = 2
    n_negatives: int = 4
    regularization: float = 1e-4
    default_batch_size: ClassVar[int] = 8192
    learning_rate: float = 5e-3

    @abstractmethod
    def aggregate(self, width: int) -> nn.Module:
        """Build the aggregation module of one layer, see `bipartite.GraphLayer`."""

    @classmethod
    def space(cls) -> Space:
        """Return the search space of `mllm-msr tune`."""
        return {
            "width": Choice((64, 128)),
            "n_layers": Range(1, 3),
            "n_negatives": Range(1, 8),
            "regularization": Range(1e-6, 1e-2, log=True),
            "learning_rate": Range(1e-3, 2e-2, log=True),
        }

    def own_problems(self) -> list[str]:
        """Return one sentence for each setting that is out of range."""
        found = too_small(self, "n_layers", "n_negatives")
        if not self.regularization >= 0:
            found.append(f"regularization must not be negative, but is {self.regularization}.")
        return found

    def build(self, context: TrainingContext) -> GraphModel:
        """Build the network and the graph of the users."""
        return GraphModel(
            self._network(context.content, len(context.users)),
            context.codes,
            context.content,
            users=context.users,
            graph=BipartiteGraph.from_histories(context.histories, n_items=context.codes.n_codes),
        )

    def restore(self, state: State, codes: ItemCodes, content: Mapping[str, Tensor]) -> GraphModel:
        """Rebuild a model that scores with the saved item states."""
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

    def training_spec(self, fitted: GraphModel, histories: Histories) -> TrainingSpec:
        """Return batches of interactions with negatives, and the BPR loss."""
        users, items = distinct_pairs(histories)
        sampler = NegativeItems(users, items, n_items=fitted.codes.n_codes)
        graph = BipartiteGraph.from_histories(histories, n_items=fitted.codes.n_codes)
        network = fitted.network
        graph_on: dict[torch.device, BipartiteGraph] = {}

        def batches(epoch: int) -> list[Tensor]:
            rng = np.random.default_rng([self.seed, epoch])
            rows = rng.permutation(len(users))
            negatives = sampler.draw(users[rows], self.n_negatives, rng)
            # [n_pairs, 2 + n_negatives]: user, positive, negatives
            table = np.column_stack([users[rows], items[rows], negatives])
            return list(torch.split(torch.from_numpy(table), self.effective_batch_size(len(table))))

        def loss(batch: Tensor) -> Tensor:
            if batch.device not in graph_on:
                graph_on[batch.device] = graph.to(batch.device)
            user_table, item_table = network(graph_on[batch.device])
            batch_users, batch_items = batch[:, 0], batch[:, 1:]
            products = user_table[batch_users, None] * item_table[batch_items]
            scores = products.float().sum(-1)  # [n, 1 + n_negatives]
            value = bpr_loss(scores[:, :1], scores[:, 1:])
            if self.regularization:
                penalty = network.l2_penalty(batch_users, batch_items)
                value = value + self.regularization * penalty / len(batch)
            return value

        return TrainingSpec(batches, loss)

    def _network(self, content: Mapping[str, Tensor], n_users: int) -> GraphNetwork:
        return GraphNetwork(
            [content[name] for name in sorted(content)],
            n_users,
            width=self.width,
            n_layers=self.n_layers,
            aggregate=self.aggregate,
        )
