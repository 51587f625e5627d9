"""MMSR: multimodal sequential recommendation on history graphs (Hu et al., CIKM 2023).

A baseline of the paper's Table 3. k-means clusters the content vectors of each modality; a history
becomes a graph of its items and their nearest clusters; fusion runs along the history and across
modalities, and each node weights the two orders. The state of the last item is compared with all
items. The loss is cross-entropy over the catalog.

A graph has edges in both directions of time, so it can predict only one target: each epoch samples
one or more targets from the history of every user. Items without interactions are predicted by
their content and the mean id embedding. Users without a known item get the popularity of the items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from mllm_msr.baselines._content.clusters import Clusters, cluster
from mllm_msr.baselines._content.content_baseline import Arrays, TrainingContext
from mllm_msr.baselines._content.tensors import fill_cold_embeddings
from mllm_msr.baselines._content.vector_baseline import Floats, VectorBaseline, VectorModel
from mllm_msr.baselines._graphs.sequence_fusion import SequenceFusion
from mllm_msr.baselines._graphs.sequence_graphs import SequenceGraph, sequence_graph
from mllm_msr.baselines._shared.state import State
from mllm_msr.baselines._training.checks import not_a_fraction, too_small
from mllm_msr.baselines._training.histories import Codes, Histories, ItemCodes, histories_before
from mllm_msr.baselines._training.neural_baseline import TrainingSpec
from mllm_msr.baselines._training.sampling import preceding_items, sample_targets, select_histories
from mllm_msr.search_space import Choice, Range, Space

_SCORING_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """Graphs of histories with the items that followed.

    Attributes:
        graph: One graph per history.
        targets: int64 [n_histories]; item codes.
    """

    graph: SequenceGraph
    targets: Tensor

    def to(self, device: torch.device | str) -> GraphBatch:
        """Copy the batch to a device."""
        return GraphBatch(self.graph.to(device), self.targets.to(device))


class FusionModel(VectorModel):
    """Fitted `SequenceFusion`.

    Args:
        network: The network.
        codes: Item codes of the catalog.
        content: Content by item code.
        clusters: Clusters of each modality, in the order of the network.
        counts: float32 [n_codes]; number of interactions of each item.
        max_length: Number of latest items of a history that are used.
    """

    network: SequenceFusion

    def __init__(
        self,
        network: SequenceFusion,
        codes: ItemCodes,
        content: Mapping[str, Tensor],
        *,
        clusters: Sequence[Clusters],
        counts: Floats,
        max_length: int,
    ) -> None:
        super().__init__(network, codes, content)
        self.clusters = tuple(clusters)
        self._counts = counts
        self._max_length = max_length
        self._table: Tensor | None = None

    def finalize(self) -> None:
        """Give items without interactions the mean id embedding."""
        fill_cold_embeddings(self.network.item_ids, torch.from_numpy(self._counts > 0))

    @torch.no_grad()
    def update_item_embeddings(self) -> None:
        """Recompute the item vectors."""
        self._table = self.network.item_table()

    def item_vectors(self) -> Floats:
        """Return the item vectors with popularity as an additional dimension."""
        popularity = np.log1p(self._counts)[:, None]
        return np.hstack([self._item_table().cpu().numpy(), popularity]).astype(np.float32)

    @torch.no_grad()
    def user_vectors(self, targets: pl.DataFrame, interactions: pl.DataFrame) -> Floats:
        """Compute the state of each history; empty histories select the popularity dimension."""
        histories = histories_before(targets, interactions, self.codes).latest(self._max_length)
        vectors = np.zeros((targets.height, self._item_table().shape[1] + 1), dtype=np.float32)
        vectors[:, -1] = histories.lengths == 0
        # Histories of similar length share a batch.
        order = np.argsort(histories.lengths, kind="stable")
        order = order[histories.lengths[order] > 0]
        for start in range(0, len(order), _SCORING_BATCH):
            rows = order[start : start + _SCORING_BATCH]
            graph = self.graph(select_histories(histories, rows)).to(self._item_table().device)
            vectors[rows, :-1] = self.network(graph, self._item_table()).float().cpu().numpy()
        return vectors

    def graph(self, histories: Histories) -> SequenceGraph:
        """Build the graphs of non-empty histories."""
        return sequence_graph(histories, [found.nearest for found in self.clusters])

    def arrays(self) -> Arrays:
        """Return clusters and counts."""
        centroids = {f"centroids.{i}": found.centroids for i, found in enumerate(self.clusters)}
        nearest = {f"nearest.{i}": found.nearest for i, found in enumerate(self.clusters)}
        return {**centroids, **nearest, "counts": self._counts}

    def _item_table(self) -> Tensor:
        if self._table is None:
            self.update_item_embeddings()
        assert self._table is not None
        return self._table


@dataclass(frozen=True, slots=True)
class GraphBatches(Sequence[GraphBatch]):
    """Batches of one epoch, each built on access.

    Attributes:
        model: Model that builds the graphs.
        histories: Interactions of each user.
        targets: Positions of the targets in `histories.items`, in the order of the epoch.
        batch_size: Targets per batch.
        max_length: Number of latest items before a target that are used.
    """

    model: FusionModel
    histories: Histories
    targets: Codes
    batch_size: int
    max_length: int

    def __len__(self) -> int:
        return math.ceil(len(self.targets) / self.batch_size)

    def __getitem__(self, index: int) -> GraphBatch:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        targets = self.targets[index * self.batch_size : (index + 1) * self.batch_size]
        earlier = preceding_items(self.histories, targets, max_length=self.max_length)
        items = torch.from_numpy(self.histories.items[targets])
        return GraphBatch(self.model.graph(earlier), items)


@final
@dataclass(kw_only=True, eq=False)
class Mmsr(VectorBaseline[FusionModel]):
    """Recommender with fusion over the graph of a history; `ContentBaseline` has further settings.

    Attributes:
        n_layers: Fusion layers, at least 1.
        n_clusters: Clusters of each modality, at least 1; fewer if fewer vectors are distinct.
        n_links: Number of nearest clusters that an item is linked to, at least 1.
        max_length: Number of latest items of a history that are used, at least 1.
        targets_per_user: Targets sampled from the history of each user per epoch, at least 1.
        dropout: Dropout probability of states, in [0, 1).
    """

    label: ClassVar[str] = "MMSR"

    n_layers: int = 1
    n_clusters: int = 128
    n_links: int = 2
    max_length: int = 20
    targets_per_user: int = 4
    dropout: float = 0.4
    width: int = 128
    learning_rate: float = 2e-3

    @classmethod
    def space(cls) -> Space:
        """Return the search space of `mllm-msr tune`."""
        return {
            "width": Choice((64, 128)),
            "n_clusters": Choice((32, 64, 128, 256)),
            "n_links": Range(1, 3),
            "dropout": Range(0.1, 0.6),
            "learning_rate": Range(5e-4, 1e-2, log=True),
        }

    def own_problems(self) -> list[str]:
        """Return one sentence for each setting that is out of range."""
        counts = ("n_layers", "n_clusters", "n_links", "max_length", "targets_per_user")
        return [*too_small(self, *counts), *not_a_fraction(self, "dropout")]

    def build(self, context: TrainingContext) -> FusionModel:
        """Compute the clusters and build a network with initial weights."""
        codes, content = context.codes, context.content
        clusters = [
            cluster(
                content[name].numpy(),
                n_clusters=self.n_clusters,
                n_links=self.n_links,
                seed=self.seed,
            )
            for name in sorted(content)
        ]
        counts = np.bincount(context.histories.items, minlength=codes.n_codes)
        return self._model(codes, content, clusters, counts.astype(np.float32))

    def restore(self, state: State, codes: ItemCodes, content: Mapping[str, Tensor]) -> FusionModel:
        """Rebuild a model with the saved clusters."""
        clusters = [
            Clusters(state.arrays[f"centroids.{index}"], state.arrays[f"nearest.{index}"])
            for index in range(len(content))
        ]
        return self._model(codes, content, clusters, state.arrays["counts"])

    def training_spec(self, fitted: FusionModel, histories: Histories) -> TrainingSpec:
        """Return sampled targets with their histories, and cross-entropy over the catalog."""
        network = fitted.network

        def batches(epoch: int) -> Sequence[GraphBatch]:
            rng = np.random.default_rng([self.seed, epoch])
            targets = sample_targets(histories, self.targets_per_user, rng)
            size = self.effective_batch_size(len(targets))
            return GraphBatches(fitted, histories, targets, size, self.max_length)

        def loss(batch: GraphBatch) -> Tensor:
            items = network.item_table()
            # Code 0, the unknown item, is not a class.
            logits = network(batch.graph, items) @ items[1:].T
            return functional.cross_entropy(logits.float(), batch.targets - 1)

        return TrainingSpec(batches, loss)

    def _model(
        self,
        codes: ItemCodes,
        content: Mapping[str, Tensor],
        clusters: Sequence[Clusters],
        counts: Floats,
    ) -> FusionModel:
        network = SequenceFusion(
            [content[name] for name in sorted(content)],
            clusters,
            width=self.width,
            n_layers=self.n_layers,
            dropout=self.dropout,
        )
        return FusionModel(
            network, codes, content, clusters=clusters, counts=counts, max_length=self.max_length
        )
