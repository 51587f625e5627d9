"""Lists of the teacher as training data of the student, and the distillation loss.

A list contains the items that the teacher has scored for one user and position. The student learns
to distribute its probability over them as the teacher does (listwise Kullback-Leibler divergence,
as in the distillation of Hinton et al. 2015). Lists that the teacher does not order weigh little.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mllm_msr.baselines._sequences.sequence_model import SequenceModel, SequenceNetwork
from mllm_msr.baselines._training.histories import Codes, Histories, HistoryBatch, batch_of
from mllm_msr.tables import TEACHER, conform

# Probabilities closer to 0 or 1 have no useful logit.
_MIN: Final = 1e-6


@dataclass(frozen=True, slots=True)
class TeacherLists:
    """Items that the teacher has scored, one list per user and position.

    Attributes:
        histories: History before each list: [n_lists]; none is empty.
        codes: Item codes, [n_lists, size].
        probabilities: The teacher's distribution over the items of a list, 0 for padding:
            [n_lists, size].
        weights: Confidence of the teacher, in [0, 1]: 1 minus the entropy of its distribution in
            units of the largest possible one, [n_lists].
    """

    histories: Histories
    codes: Tensor
    probabilities: Tensor
    weights: Tensor

    @classmethod
    def from_table(
        cls, table: pl.DataFrame, model: SequenceModel, interactions: pl.DataFrame
    ) -> Self:
        """Arrange the teacher's scores as lists.

        Pairs without a score are left out, and so are lists of one item and those whose history is
        not completely visible: what follows a hidden interaction may reveal it.

        Args:
            table: `tables.TEACHER`.
            model: Model that encodes items and histories.
            interactions: `tables.INTERACTIONS` that the student may learn from.
        """
        known = interactions.group_by("user_id").agg(end=pl.col("position").max() + 1)
        key = ["user_id", "position"]
        rows = (
            conform(table, TEACHER, name="teacher")
            .drop_nulls("score")
            .join(known, on="user_id")
            .filter((pl.col("position") <= pl.col("end")) & (pl.len().over(key) > 1))
            .sort(*key, "item_id")
        )
        keys = rows.select(key).unique(maintain_order=True)
        histories = model.histories(keys, interactions)
        kept = np.flatnonzero(histories.lengths)
        rows = rows.join(keys[kept].with_row_index("row"), on=key, maintain_order="left")
        column = rows.select(pl.int_range(pl.len()).over("row")).to_series()
        at = rows["row"].to_numpy(), column.to_numpy()
        shape = (len(kept), int(column.max() or 0) + 1)  # type: ignore[arg-type]
        codes = np.zeros(shape, dtype=np.int64)
        codes[at] = model.codes.encode(rows["item_id"])
        scores = np.full(shape, np.nan)
        scores[at] = rows["score"].to_numpy()
        logits = torch.logit(torch.from_numpy(scores), _MIN).float().nan_to_num(-torch.inf)
        probabilities = torch.softmax(logits, dim=1)
        largest = logits.isfinite().sum(dim=1).log()
        entropy = torch.special.entr(probabilities).sum(dim=1)
        return cls(
            histories.slices(histories.starts[:-1][kept], histories.lengths[kept]),
            torch.from_numpy(codes),
            probabilities,
            (1 - entropy / largest).clamp(0, 1),
        )

    def __len__(self) -> int:
        return len(self.codes)

    def share(self, n_interactions: int) -> float:
        """Return the number of scored pairs divided by that of interactions, at most 1."""
        return min(int((self.codes > 0).sum()) / n_interactions, 1.0)

    def digest(self) -> bytes:
        """Return a SHA-256 of everything that the loss depends on."""
        found = hashlib.sha256(self.histories.items.tobytes() + self.histories.starts.tobytes())
        for tensor in (self.codes, self.probabilities):
            found.update(tensor.numpy().tobytes())
        return found.digest()

    def batch(self, rows: Codes) -> ListBatch:
        """Build a batch from some of the lists, at least one."""
        histories = batch_of(self.histories, rows)
        order = histories.rows
        return ListBatch(
            histories, self.codes[order], self.probabilities[order], self.weights[order]
        )


@dataclass(frozen=True, slots=True)
class ListBatch:
    """Several lists as tensors, those with the longest history first; see `TeacherLists`."""

    histories: HistoryBatch
    codes: Tensor
    probabilities: Tensor
    weights: Tensor

    def to(self, device: torch.device | str) -> ListBatch:
        """Copy the batch to a device."""
        return ListBatch(
            self.histories.to(device),
            self.codes.to(device),
            self.probabilities.to(device),
            self.weights.to(device),
        )


@dataclass(frozen=True, slots=True)
class StudentBatch:
    """Histories for the prediction of the next item, and lists of the teacher."""

    histories: HistoryBatch
    lists: ListBatch

    def to(self, device: torch.device | str) -> StudentBatch:
        """Copy the batch to a device."""
        return StudentBatch(self.histories.to(device), self.lists.to(device))


@dataclass(frozen=True, slots=True)
class StudentBatches(Sequence[StudentBatch]):
    """Batches of one epoch, in which each list occurs at least once.

    Attributes:
        histories: Batches of histories.
        lists: All lists, at least one.
        parts: Indices of the lists in each batch; none is empty.
    """

    histories: Sequence[HistoryBatch]
    lists: TeacherLists
    parts: tuple[Codes, ...]

    @classmethod
    def shuffled(
        cls, histories: Sequence[HistoryBatch], lists: TeacherLists, *, seed: int, epoch: int
    ) -> Self:
        """Distribute the lists over the batches, in an order given by the seed and the epoch."""
        rng = np.random.default_rng([seed, epoch, 1])
        n_batches = len(histories)
        order = np.concatenate(
            [rng.permutation(len(lists)) for _ in range(-(-n_batches // len(lists)))]
        )
        return cls(histories, lists, tuple(np.array_split(order, n_batches)))

    def __len__(self) -> int:
        return len(self.histories)

    def __getitem__(self, index: int) -> StudentBatch:  # type: ignore[override]
        return StudentBatch(self.histories[index], self.lists.batch(self.parts[index]))


def distillation_loss(network: SequenceNetwork, batch: ListBatch) -> Tensor:
    """Compute the mean divergence of the student's distributions from the teacher's.

    Args:
        network: The student.
        batch: Lists of the teacher, weighted by its confidence.

    Returns:
        A scalar, at least 0.
    """
    states = network(batch.histories)[batch.histories.last]  # [n_lists, d]
    items = network.table()[batch.codes]  # [n_lists, size, d]
    scores = torch.einsum("nd,nsd->ns", states, items).float()
    present = batch.probabilities > 0
    student = torch.log_softmax(scores.masked_fill(~present, -torch.inf), dim=1)
    teacher = batch.probabilities.clamp(min=1e-30).log()
    terms = batch.probabilities * (teacher - student).masked_fill(~present, 0.0)
    return (batch.weights * terms.sum(dim=1)).mean()
