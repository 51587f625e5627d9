"""Scoring with a fitted sequence model: candidate tables, and the whole catalog.

Each history is encoded once, in float32, so the score of a candidate does not depend on the other
candidates, and candidate tables and full ranking agree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor, nn

from mllm_msr.baselines._shared.catalog import distinct_targets
from mllm_msr.baselines._training.histories import (
    Histories,
    HistoryBatch,
    ItemCodes,
    UserTexts,
    histories_before,
    scoring_batches,
)

_USER_CHUNK: Final = 1024
_PAIR_CHUNK: Final = 100_000


class SequenceNetwork(nn.Module, ABC):
    """Network that encodes a history; the score of an item is the inner product with its vector."""

    @abstractmethod
    def forward(self, batch: HistoryBatch) -> Tensor:
        """Compute the state after each token, from that token and those before it.

        Returns:
            Shape [n_tokens, d].
        """

    @abstractmethod
    def table(self) -> Tensor:
        """Return the vector of every item code as a candidate, [n_codes, d]."""


@dataclass(frozen=True, slots=True)
class CandidatePairs:
    """Candidates as pairs of a history and an item code.

    Attributes:
        histories: One history per distinct user and position.
        history: Index of each candidate's history, [n_candidates].
        code: Item code of each candidate, [n_candidates].
    """

    histories: Histories
    history: Tensor
    code: Tensor


@dataclass(frozen=True, slots=True)
class SequenceModel:
    """Fitted network with everything needed for scoring.

    Attributes:
        network: Network; in evaluation mode during scoring.
        codes: Codes of the items that the network distinguishes.
        n_warm: Number of items with interactions; their codes are 1 to `n_warm`.
        catalog: All items of the training data.
        counts: Number of interactions of each code, [n_codes], on the CPU.
        max_length: Number of latest items of a history that are used.
        texts: Texts about the users, for networks that read them.
    """

    network: SequenceNetwork
    codes: ItemCodes
    n_warm: int
    catalog: tuple[str, ...]
    counts: Tensor
    max_length: int
    texts: UserTexts | None = None

    def histories(self, targets: pl.DataFrame, interactions: pl.DataFrame) -> Histories:
        """Return the history before each target; the columns are those of `histories_before`."""
        found = histories_before(targets, interactions, self.codes, self.texts)
        return found.latest(self.max_length)

    def pairs(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> CandidatePairs:
        """Encode candidates; the arguments are those of `Recommender.score`."""
        targets, rows = distinct_targets(candidates)
        return CandidatePairs(
            self.histories(targets, interactions),
            torch.from_numpy(rows),
            torch.from_numpy(self.codes.encode(candidates["item_id"])),
        )

    @torch.no_grad()
    def pair_scores(self, pairs: CandidatePairs) -> npt.NDArray[np.float64]:
        """Score candidates; with an empty history, the score is the popularity of the item.

        Returns:
            Shape [n_candidates].
        """
        states, has_state = self._encode(pairs.histories)
        table = self.network.table().cpu()
        scores = self.counts.log1p()[pairs.code]
        for start in range(0, len(scores), _PAIR_CHUNK):
            chunk = slice(start, start + _PAIR_CHUNK)
            history, code = pairs.history[chunk], pairs.code[chunk]
            products = (states[history] * table[code]).sum(1)
            scores[chunk] = torch.where(has_state[history], products, scores[chunk])
        return scores.double().numpy()

    @torch.no_grad()
    def states(self, targets: pl.DataFrame, interactions: pl.DataFrame) -> npt.NDArray[np.float32]:
        """Return the state before each target; zero if no item of the history is known: [n, d]."""
        histories = self.histories(targets, interactions)
        states: npt.NDArray[np.float32] = self._encode(histories)[0].numpy()
        return states

    @torch.no_grad()
    def catalog_scores(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """Yield the scores of all items, a chunk of users at a time; see `CatalogScorer`."""
        histories = self.histories(users, interactions)
        states, has_state = self._encode(histories)
        columns = torch.from_numpy(self.codes.encode(pl.Series(self.catalog, dtype=pl.String)))
        items = self.network.table().cpu()[columns]
        popularity = self.counts[columns].log1p()
        for start in range(0, users.height, _USER_CHUNK):
            chunk = slice(start, start + _USER_CHUNK)
            values = states[chunk] @ items.T
            values[~has_state[chunk]] = popularity
            yield users[chunk], values.numpy()

    def _encode(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """Encode histories on the network's device and return the results on the CPU.

        Returns:
            The state after each history, [n, d], zero for empty ones; and a mask of the non-empty
            histories, [n].
        """
        table = self.network.table()
        states = torch.zeros(len(histories), table.shape[1])
        for batch in scoring_batches(histories):
            on_device = batch.to(table.device)
            states[batch.rows] = self.network(on_device)[on_device.last].cpu()
        return states, torch.from_numpy(histories.lengths > 0)
