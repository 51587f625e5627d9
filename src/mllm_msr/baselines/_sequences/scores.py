"""Scores of a sequence model: of candidate tables, and of the whole catalog for many users.

A fitted model reads each history once, in float32, whatever is asked about it, so that a
candidate's score depends neither on its company nor on the way it was asked for.
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

from mllm_msr.baselines._shared.catalog import targets_of
from mllm_msr.baselines._training.histories import (
    Batch,
    Histories,
    ItemCodes,
    histories_before,
    scoring_batches,
)

_CHUNK: Final = 1024
_CHUNK_PAIRS: Final = 100_000


class SequenceNetwork(nn.Module, ABC):
    """From batches of histories to states whose product with an item's vector is its score."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The state after each token, which has read that token and all before: [n_tokens, d]."""

    @abstractmethod
    def table(self) -> Tensor:
        """The vector of every item code as a candidate: [n_codes, d]."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Candidates as numbers.

    Attributes:
        histories: One for each distinct user and position.
        history: Which of them each candidate belongs to: [n_candidates].
        code: Each candidate's item: [n_candidates].
    """

    histories: Histories
    history: Tensor
    code: Tensor


@dataclass(frozen=True, slots=True)
class SequenceModel:
    """What fitting makes and loading restores.

    Attributes:
        network: In evaluation mode whenever scores are asked for.
        codes: The items that can be told from others.
        n_met: How many of them somebody chose: codes 1 to `n_met`.
        catalog: Every item of the training data.
        counts: How often each code was chosen: [n_codes], on the CPU.
        max_length: Latest items of a history that are read.
    """

    network: SequenceNetwork
    codes: ItemCodes
    n_met: int
    catalog: tuple[str, ...]
    counts: Tensor
    max_length: int

    def pairs(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> Pairs:
        """Candidates as numbers; arguments as for `Recommender.score`."""
        targets, rows = targets_of(candidates)
        return Pairs(
            histories_before(targets, interactions, self.codes).latest(self.max_length),
            torch.from_numpy(rows),
            torch.from_numpy(self.codes.encode(candidates["item_id"])),
        )

    @torch.no_grad()
    def pair_scores(self, pairs: Pairs) -> npt.NDArray[np.float64]:
        """One score per candidate: [n_candidates]."""
        states, known = self._states(pairs.histories)
        table = self.network.table().cpu()
        scores = self.counts.log1p()[pairs.code]
        for begin in range(0, len(scores), _CHUNK_PAIRS):
            chunk = slice(begin, begin + _CHUNK_PAIRS)
            history, code = pairs.history[chunk], pairs.code[chunk]
            products = (states[history] * table[code]).sum(1)
            scores[chunk] = torch.where(known[history], products, scores[chunk])
        return scores.double().numpy()

    @torch.no_grad()
    def catalog_scores(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """Scores of all items, a chunk of users at a time; see `interfaces.CatalogScorer`."""
        histories = histories_before(users, interactions, self.codes).latest(self.max_length)
        states, known = self._states(histories)
        columns = torch.from_numpy(self.codes.encode(pl.Series(self.catalog, dtype=pl.String)))
        items = self.network.table().cpu()[columns]
        popularity = self.counts[columns].log1p()
        for begin in range(0, users.height, _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            values = states[chunk] @ items.T
            values[~known[chunk]] = popularity
            yield users[chunk], values.numpy()

    def _states(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """The state after each history [n, d], and whether there is one [n]; on the CPU."""
        table = self.network.table()
        states = torch.zeros(len(histories), table.shape[1])
        for batch in scoring_batches(histories):
            moved = batch.to(table.device)
            states[batch.rows] = self.network(moved)[moved.last].cpu()
        return states, torch.from_numpy(histories.lengths > 0)
