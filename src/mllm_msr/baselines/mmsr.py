"""MMSR: a graph of items and modality clusters for each history, fused in both orders.

A baseline of the paper's Table 3 (Hu et al., CIKM 2023). k-means makes clusters of each modality's
content vectors; a history becomes a graph of its items and their nearest clusters; fusion runs
along the history and across modalities, each node choosing the order; the state of the last item
is compared with all items. The loss is cross-entropy over the catalog.

A graph has edges in both directions of time and so serves one target only: each epoch draws one
or more targets from every user's history. Items that nobody chose are predicted by their content
and the mean id embedding, users without a known item by the items' popularity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from mllm_msr.baselines._content.clusters import Clusters, cluster
from mllm_msr.baselines._content.recommender import Arrays, TrainingContext
from mllm_msr.baselines._content.tensors import settle_unchosen
from mllm_msr.baselines._content.vector_scores import Floats, VectorBaseline, VectorModel
from mllm_msr.baselines._graphs.sequence_fusion import SequenceFusion
from mllm_msr.baselines._graphs.sequence_graphs import SequenceGraph, sequence_graph
from mllm_msr.baselines._shared.state import State
from mllm_msr.baselines._training.checks import not_a_share, too_small
from mllm_msr.baselines._training.histories import Codes, Histories, ItemCodes, histories_before
from mllm_msr.baselines._training.sampling import before, chosen, drawn_targets
from mllm_msr.baselines._training.trained import TrainingSpec
from mllm_msr.search_space import Choice, Range, Space

_SCORING_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class Example:
    """Histories as a graph, and what followed.

    Attributes:
        graph: One graph per history.
        targets: int64 [n_histories]; item codes.
    """

    graph: SequenceGraph
    targets: Tensor

    def to(self, device: torch.device | str) -> Example:
        """The same batch on a device."""
        return Example(self.graph.to(device), self.targets.to(device))


class FusionModel(VectorModel):
    """A fitted `SequenceFusion`.

    Args:
        network: The weights.
        codes: Codes of the catalog.
        content: Content by item code.
        clusters: The clusters of each modality, in the order of the network's.
        counts: float32 [n_codes]; how often each item was chosen.
        max_length: Latest items of a history that are read.
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
        """Give items that nobody chose the mean id embedding."""
        settle_unchosen(self.network.item_ids, torch.from_numpy(self._counts > 0))

    @torch.no_grad()
    def update_item_embeddings(self) -> None:
        """Compute the items' vectors."""
        self._table = self.network.item_table()

    def item_vectors(self) -> Floats:
        """The items' vectors, and their popularity as a further dimension."""
        share = np.log1p(self._counts)[:, None]
        return np.hstack([self._item_table().cpu().numpy(), share]).astype(np.float32)

    @torch.no_grad()
    def user_vectors(self, targets: pl.DataFrame, interactions: pl.DataFrame) -> Floats:
        """States of last items; users without one look at popularity alone."""
        histories = histories_before(targets, interactions, self.codes).latest(self._max_length)
        vectors = np.zeros((targets.height, self._item_table().shape[1] + 1), dtype=np.float32)
        vectors[:, -1] = histories.lengths == 0
        for rows in _batches_by_length(histories):
            graph = self.graph(chosen(histories, rows)).to(self._item_table().device)
            vectors[rows, :-1] = self.network(graph, self._item_table()).float().cpu().numpy()
        return vectors

    def graph(self, histories: Histories) -> SequenceGraph:
        """Graphs of histories, none of them empty."""
        return sequence_graph(histories, [found.nearest for found in self.clusters])

    def arrays(self) -> Arrays:
        """Clusters and counts."""
        named = {f"centroids.{at}": found.centroids for at, found in enumerate(self.clusters)}
        links = {f"nearest.{at}": found.nearest for at, found in enumerate(self.clusters)}
        return {**named, **links, "counts": self._counts}

    def _item_table(self) -> Tensor:
        if self._table is None:
            self.update_item_embeddings()
        assert self._table is not None
        return self._table


def _batches_by_length(histories: Histories) -> Iterator[Codes]:
    """Places of the histories that are not empty, similar lengths together."""
    order = np.argsort(histories.lengths, kind="stable")
    order = order[histories.lengths[order] > 0]
    for at in range(0, len(order), _SCORING_BATCH):
        yield order[at : at + _SCORING_BATCH]


@dataclass(frozen=True, slots=True)
class Examples(Sequence[Example]):
    """An epoch's batches, each made when it is asked for.

    Attributes:
        model: Makes the graphs.
        histories: What the users chose.
        places: Targets among the histories' items, in the order of the epoch.
        batch_size: Targets per batch.
        max_length: Latest items before a target that are read.
    """

    model: FusionModel
    histories: Histories
    places: Codes
    batch_size: int
    max_length: int

    def __len__(self) -> int:
        return math.ceil(len(self.places) / self.batch_size)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        places = self.places[index * self.batch_size : (index + 1) * self.batch_size]
        read = before(self.histories, places, max_length=self.max_length)
        return Example(self.model.graph(read), torch.from_numpy(self.histories.items[places]))


@final
@dataclass(kw_only=True, eq=False)
class Mmsr(VectorBaseline[FusionModel]):
    """Fusion over the graph of a history; see `ContentBaseline` for the settings that it shares.

    Attributes:
        n_layers: Fusion layers, at least 1.
        n_clusters: Clusters of each modality, at least 1; fewer where fewer vectors are
            distinct.
        n_links: Nearest clusters that an item is linked to, at least 1.
        max_length: Latest items of a history that are read, at least 1.
        targets_per_user: Targets that an epoch draws from each user's history, at least 1.
        dropout: Dropout of states, in [0, 1).
    """

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
        """What `mllm-msr tune` searches."""
        return {
            "width": Choice((64, 128)),
            "n_clusters": Choice((32, 64, 128, 256)),
            "n_links": Range(1, 3),
            "dropout": Range(0.1, 0.6),
            "learning_rate": Range(5e-4, 1e-2, log=True),
        }

    def own_problems(self) -> list[str]:
        """One sentence for each setting out of its range."""
        counts = ("n_layers", "n_clusters", "n_links", "max_length", "targets_per_user")
        return [*too_small(self, *counts), *not_a_share(self, "dropout")]

    def build(self, lessons: TrainingContext) -> FusionModel:
        """Clusters and fresh weights."""
        codes, content = lessons.codes, lessons.content
        clusters = [
            cluster(
                content[name].numpy(),
                n_clusters=self.n_clusters,
                n_links=self.n_links,
                seed=self.seed,
            )
            for name in sorted(content)
        ]
        counts = np.bincount(lessons.histories.items, minlength=codes.n_codes)
        return self._model(codes, content, clusters, counts.astype(np.float32))

    def restore(self, state: State, codes: ItemCodes, content: Mapping[str, Tensor]) -> FusionModel:
        """A model with the clusters that were saved."""
        clusters = [
            Clusters(state.arrays[f"centroids.{at}"], state.arrays[f"nearest.{at}"])
            for at in range(len(content))
        ]
        return self._model(codes, content, clusters, state.arrays["counts"])

    def course(self, fitted: FusionModel, histories: Histories) -> TrainingSpec:
        """Drawn targets with the histories before them; cross-entropy over the catalog."""
        network = fitted.network

        def batches(epoch: int) -> Sequence[Example]:
            rng = np.random.default_rng([self.seed, epoch])
            places = drawn_targets(histories, self.targets_per_user, rng)
            size = self.step_size(len(places))
            return Examples(fitted, histories, places, size, self.max_length)

        def loss(batch: Example) -> Tensor:
            items = network.item_table()
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
