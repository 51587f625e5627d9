"""Trans2D: attention over all attributes of all items of the history (Singer et al., WSDM 2022).

A baseline of the paper's Table 3 (the paper cites another work under this name). Attributes are the
id of the item and its content in each modality. The score is the logit of a candidate being the
next item, trained with binary cross-entropy against sampled items with interactions. The network
encodes history and candidate jointly, so ranking a whole catalog is expensive.

Items without interactions and unknown items have the mean id embedding, and their content if any.
For users without a known item, the candidate alone determines the score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from mllm_msr.baselines._content.content_baseline import (
    Arrays,
    ContentBaseline,
    ContentModel,
    TrainingContext,
)
from mllm_msr.baselines._content.tensors import fill_cold_embeddings
from mllm_msr.baselines._sequences.attention2d import Trans2dNetwork
from mllm_msr.baselines._shared.catalog import distinct_targets
from mllm_msr.baselines._shared.state import State
from mllm_msr.baselines._training.checks import not_a_fraction, too_small
from mllm_msr.baselines._training.histories import Codes, Histories, ItemCodes, histories_before
from mllm_msr.baselines._training.neural_baseline import TrainingSpec
from mllm_msr.baselines._training.sampling import (
    NegativeItems,
    history_indices,
    preceding_items,
    sample_targets,
    select_histories,
)
from mllm_msr.search_space import Choice, Range, Space

# Bound on the attention weights of one scoring batch, over all heads and attributes.
_MAX_WEIGHTS: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Histories with their candidates.

    Attributes:
        items: int64 [n_tokens]; item codes of the concatenated histories.
        lengths: int64 [n]; items of each history.
        candidates: int64 [n, m]; in training the target followed by the negatives.
    """

    items: Tensor
    lengths: Tensor
    candidates: Tensor

    @classmethod
    def from_histories(cls, histories: Histories, rows: Codes, candidates: Codes) -> PairBatch:
        """Build a batch of some histories with their candidates, [len(rows), m]."""
        selected = select_histories(histories, rows)
        arrays = selected.items, selected.lengths, candidates
        return cls(*map(torch.from_numpy, arrays))

    def to(self, device: torch.device | str) -> PairBatch:
        """Copy the batch to a device."""
        return PairBatch(self.items.to(device), self.lengths.to(device), self.candidates.to(device))


class PairModel(ContentModel):
    """Fitted `Trans2dNetwork`.

    Args:
        network: The network.
        codes: Item codes of the catalog.
        content: Content by item code.
        has_interactions: bool [n_codes].
        max_length: Number of latest items of a history that are used.
    """

    network: Trans2dNetwork

    def __init__(
        self,
        network: Trans2dNetwork,
        codes: ItemCodes,
        content: Mapping[str, Tensor],
        *,
        has_interactions: npt.NDArray[np.bool_],
        max_length: int,
    ) -> None:
        super().__init__(network, codes, content)
        self._has_interactions = has_interactions
        self._max_length = max_length
        self._table: Tensor | None = None

    def finalize(self) -> None:
        """Give items without interactions the mean id embedding."""
        fill_cold_embeddings(self.network.item_ids, torch.from_numpy(self._has_interactions))

    @torch.no_grad()
    def update_item_embeddings(self) -> None:
        """Recompute the item tokens."""
        self._table = self.network.token_table()

    @torch.no_grad()
    def scores(
        self, candidates: pl.DataFrame, interactions: pl.DataFrame
    ) -> npt.NDArray[np.float64]:
        """Compute the logits of candidates, [n_candidates]."""
        targets, rows = distinct_targets(candidates)
        histories = histories_before(targets, interactions, self.codes).latest(self._max_length)
        codes = self.codes.encode(candidates["item_id"])
        scores = np.zeros(len(codes))
        if self._table is None:
            self.update_item_embeddings()
        table = self._table
        assert table is not None
        for target_rows, candidate_rows in self._scoring_batches(rows, histories):
            batch = PairBatch.from_histories(histories, target_rows, codes[candidate_rows])
            logits = self.logits(batch.to(table.device), table)
            scores[candidate_rows] = logits.float().cpu().numpy()
        return scores

    def logits(self, batch: PairBatch, table: Tensor) -> Tensor:
        """Compute the logits of the candidates, [n, m], given the tokens of all items."""
        logits: Tensor = self.network(batch.items, batch.lengths, batch.candidates, table)
        return logits

    def arrays(self) -> Arrays:
        """Return the mask of items with interactions."""
        return {"has_interactions": self._has_interactions}

    def _scoring_batches(self, rows: Codes, histories: Histories) -> Iterator[tuple[Codes, Codes]]:
        """Yield targets with similar history lengths and equal numbers of candidates.

        Args:
            rows: Target of each candidate, [n_candidates].
            histories: One history per target.

        Yields:
            Indices of targets, [n], and of their candidates, [n, m].
        """
        order = np.argsort(rows, kind="stable")
        counts = np.bincount(rows, minlength=len(histories))
        starts = np.cumsum(counts) - counts
        n_attributes = 1 + len(self.content)
        for count in np.unique(counts):
            targets = np.flatnonzero(counts == count)
            targets = targets[np.argsort(histories.lengths[targets], kind="stable")]
            longest = int(histories.lengths[targets].max())
            weights = n_attributes**2 * self.network.attention.n_heads * (longest + 1) * count
            size = max(1, _MAX_WEIGHTS // int(weights))
            for part in np.split(targets, range(size, len(targets), size)):
                yield part, order[starts[part][:, None] + np.arange(count)]


@final
@dataclass(kw_only=True, eq=False)
class Trans2d(ContentBaseline[PairModel]):
    """Recommender with attention over steps and attributes; `ContentBaseline` has further settings.

    Attributes:
        n_heads: Attention heads, at least 1; must divide `width`.
        max_length: Number of latest items of a history that are used, at least 1.
        targets_per_user: Targets sampled from the history of each user per epoch, at least 1.
        n_negatives: Sampled negatives per target, at least 1.
        dropout: Dropout probability of tokens, in [0, 1).
    """

    label: ClassVar[str] = "Trans2D"
    default_batch_size: ClassVar[int] = 512

    n_heads: int = 4
    max_length: int = 20
    targets_per_user: int = 16
    n_negatives: int = 8
    dropout: float = 0.3
    width: int = 64

    @classmethod
    def space(cls) -> Space:
        """Return the search space of `mllm-msr tune`."""
        return {
            "width": Choice((32, 64)),
            "n_negatives": Range(2, 16),
            "dropout": Range(0.1, 0.6),
            "learning_rate": Range(2e-4, 5e-3, log=True),
        }

    def own_problems(self) -> list[str]:
        """Return one sentence for each setting that is out of range."""
        found = too_small(self, "n_heads", "max_length", "targets_per_user", "n_negatives")
        found += not_a_fraction(self, "dropout")
        if self.n_heads >= 1 and self.width % self.n_heads:
            found.append(f"n_heads must divide width ({self.width}), but is {self.n_heads}.")
        return found

    def build(self, context: TrainingContext) -> PairModel:
        """Build a network with initial weights."""
        counts = np.bincount(context.histories.items, minlength=context.codes.n_codes)
        return self._model(context.codes, context.content, counts > 0)

    def restore(self, state: State, codes: ItemCodes, content: Mapping[str, Tensor]) -> PairModel:
        """Rebuild the saved model except its weights."""
        return self._model(codes, content, state.arrays["has_interactions"])

    def training_spec(self, fitted: PairModel, histories: Histories) -> TrainingSpec:
        """Return sampled targets with negatives, and binary cross-entropy."""
        network = fitted.network
        owners = np.repeat(np.arange(len(histories)), histories.lengths)
        sampler = NegativeItems(owners, histories.items, n_items=fitted.codes.n_codes)

        def batches(epoch: int) -> list[PairBatch]:
            rng = np.random.default_rng([self.seed, epoch])
            targets = sample_targets(histories, self.targets_per_user, rng)
            users = history_indices(histories, targets)
            negatives = sampler.draw(users, self.n_negatives, rng)
            candidates = np.column_stack([histories.items[targets], negatives])
            earlier = preceding_items(histories, targets, max_length=self.max_length)
            size = self.effective_batch_size(len(targets))
            return [
                PairBatch.from_histories(earlier, part, candidates[part])
                for part in np.split(np.arange(len(targets)), range(size, len(targets), size))
            ]

        def loss(batch: PairBatch) -> Tensor:
            logits = fitted.logits(batch, network.token_table()).float()
            labels = torch.zeros_like(logits)
            labels[:, 0] = 1.0
            return functional.binary_cross_entropy_with_logits(logits, labels)

        return TrainingSpec(batches, loss)

    def _model(
        self,
        codes: ItemCodes,
        content: Mapping[str, Tensor],
        has_interactions: npt.NDArray[np.bool_],
    ) -> PairModel:
        network = Trans2dNetwork(
            [content[name] for name in sorted(content)],
            width=self.width,
            n_heads=self.n_heads,
            max_length=self.max_length,
            dropout=self.dropout,
        )
        return PairModel(
            network, codes, content, has_interactions=has_interactions, max_length=self.max_length
        )
