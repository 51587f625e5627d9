"""Histories as integers, and batches of them in which padding costs nothing.

Every recommender that learns from the order of a history reads it through this file: ids become
codes, tables become `Histories` (all users' codes in one array), and these become `Batch`es: the
codes of several histories one after the other, longest history first. Histories of equal length
stand side by side, so that a network sees each `Batch.groups` entry as a dense block without a
copy and computes no position for padding (real histories average 9 items where limits reach 200).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

Codes = npt.NDArray[np.int64]

# The code of every item that a model has no row of its own for.
UNKNOWN: Final = 0


@dataclass(frozen=True, slots=True)
class ItemCodes:
    """Item ids and their codes: `item_ids[i]` has code i + 1, all others have `UNKNOWN`.

    Attributes:
        item_ids: Distinct ids, sorted.
    """

    item_ids: tuple[str, ...]

    @classmethod
    def of(cls, *ids: pl.Series) -> Self:
        """Codes for all ids of some columns, whatever their order."""
        return cls(tuple(pl.concat(list(ids)).unique().sort().to_list()))

    @property
    def n_codes(self) -> int:
        """How many rows a table indexed by codes needs, that of `UNKNOWN` included."""
        return len(self.item_ids) + 1

    def encode(self, ids: pl.Series) -> Codes:
        """The code of each id: [len(ids)]."""
        known = pl.DataFrame({"id": self.item_ids}, schema={"id": pl.String}).with_row_index(
            "code", offset=1
        )
        coded = ids.rename("id").to_frame().join(known, on="id", how="left", maintain_order="left")
        return coded["code"].fill_null(UNKNOWN).to_numpy().astype(np.int64)


@dataclass(frozen=True, slots=True)
class Histories:
    """Item codes of many histories, oldest item first, one history after the other.

    Attributes:
        items: Codes [n_tokens].
        starts: [n_histories + 1]; history h is items[starts[h]:starts[h + 1]].
    """

    items: Codes
    starts: Codes

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Codes:
        """Items per history: [n_histories]."""
        return np.diff(self.starts)

    def of(self, history: int) -> Codes:
        """One history's codes, oldest first."""
        return self.items[self.starts[history] : self.starts[history + 1]]

    def latest(self, max_length: int) -> Histories:
        """The latest `max_length` items of each history."""
        lengths = np.minimum(self.lengths, max_length)
        return self.cut(self.starts[1:] - lengths, lengths)

    def windows(self, max_length: int) -> Histories:
        """Every history as consecutive windows, so that long ones are learnt from as a whole.

        Windows are cut from the end, hold at most `max_length` items and overlap by one: the last
        item of one window is the first of the next, where it serves as context only. A window
        of one item has nothing to predict and is left out, as are shorter histories.

        Args:
            max_length: At least 2.
        """
        step = max_length - 1
        counts = np.maximum(-(-(self.lengths - 1) // step), 0)
        owner = np.repeat(np.arange(len(self)), counts)
        # Windows of one history count from its end: 0 is the latest.
        place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        ends = self.starts[1:][owner] - place * step
        begins = np.maximum(ends - max_length, self.starts[:-1][owner])
        return self.cut(begins, ends - begins)

    def cut(self, begins: Codes, lengths: Codes) -> Histories:
        """Stretches of `items`, one new history each.

        Args:
            begins: Where each begins among all items: [n_new].
            lengths: Items in each, 0 or more: [n_new].
        """
        starts = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        return Histories(self.items[np.repeat(begins, lengths) + within], starts)


def user_histories(
    interactions: pl.DataFrame, codes: ItemCodes
) -> tuple[tuple[str, ...], Histories]:
    """Everything that each user did, in the order of positions.

    Args:
        interactions: `tables.INTERACTIONS`, rows in any order.
        codes: Codes of the items; rows of unknown items are dropped.

    Returns:
        User ids, sorted, and one history for each.
    """
    rows = interactions.select("user_id", "item_id", "position").sort("user_id", "position")
    users = rows["user_id"].unique(maintain_order=True)
    keys = pl.DataFrame({"user_id": users, "position": np.iinfo(np.int32).max})
    return tuple(users), histories_before(keys, rows, codes)


def histories_before(keys: pl.DataFrame, interactions: pl.DataFrame, codes: ItemCodes) -> Histories:
    """What each user had done before a position.

    Args:
        keys: Columns `user_id` and `position`; one history per row. Users may come repeatedly,
            with equal or different positions, and need not be known.
        interactions: `tables.INTERACTIONS`, rows in any order.
        codes: Codes of the items; rows of unknown items are dropped.

    Returns:
        One history per row of `keys`, in its order, empty where nothing is known.
    """
    rows = (
        interactions.select("user_id", "item_id", "position")
        .join(keys.select("user_id").unique(), on="user_id", how="semi")
        .sort("user_id", "position")
    )
    rows = rows.with_columns(code=pl.Series(codes.encode(rows["item_id"]), dtype=pl.Int64))
    rows = rows.filter(pl.col("code") != UNKNOWN).with_row_index("end", offset=1)
    ends = rows.select(
        "user_id",
        pl.col("position").cast(pl.Int64),
        pl.col("end").cast(pl.Int64),
        length=pl.int_range(1, pl.len() + 1).over("user_id"),
    )
    asked = keys.select("user_id", pl.col("position").cast(pl.Int64)).with_row_index("key")
    # The latest row before the position tells where the history ends and how long it is.
    found = (
        asked.sort("position")
        .join_asof(
            ends.sort("position"),
            on="position",
            by="user_id",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        .sort("key")
        .select(pl.col("end", "length").fill_null(0))
    )
    lengths = found["length"].to_numpy()
    whole = Histories(rows["code"].to_numpy(), np.array([0, rows.height]))
    return whole.cut(found["end"].to_numpy() - lengths, lengths)


@dataclass(frozen=True, slots=True)
class Batch:
    """Several histories as tensors, longest first, without padding.

    Attributes:
        rows: Which histories these are: [n_histories], places among those batched.
        items: Codes, one history after the other: [n_tokens].
        targets: For each token the item that followed it: [n_tokens]; None for scoring.
        places: Each token's place in its history, 0 the oldest: [n_tokens].
        lengths: Tokens per history, descending: [n_histories], on the CPU.
    """

    rows: Tensor
    items: Tensor
    targets: Tensor | None
    places: Tensor
    lengths: Tensor

    @property
    def n_histories(self) -> int:
        """How many histories the batch holds."""
        return len(self.lengths)

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Runs of histories of equal length as (number of histories, length), in their order.

        A group's tokens lie side by side: `torch.split` of [n_tokens, ...] by `n * length` and a
        view as [n, length, ...] give dense blocks.
        """
        lengths, counts = torch.unique_consecutive(self.lengths, return_counts=True)
        return list(zip(counts.tolist(), lengths.tolist(), strict=True))

    @property
    def last(self) -> Tensor:
        """Where each history's latest token lies: [n_histories]."""
        return (self.lengths.cumsum(0) - 1).to(self.items.device)

    def by_time(self) -> tuple[Tensor, Tensor]:
        """The order in which a recurrent network reads the tokens.

        Returns:
            `order` [n_tokens], all first tokens, then all second ones, ..., and how many
            histories are that long [longest], on the CPU: `torch.nn.utils.rnn.PackedSequence`
            takes `items[order]` and these sizes as they are.
        """
        longest = int(self.lengths[0]) if self.n_histories else 0
        order = torch.argsort(self.places, stable=True)
        sizes = (self.lengths[None] > torch.arange(longest)[:, None]).sum(1)
        return order, sizes

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(
            rows=self.rows.to(device),
            items=self.items.to(device),
            targets=None if self.targets is None else self.targets.to(device),
            places=self.places.to(device),
            lengths=self.lengths,
        )


def batch_of(histories: Histories, rows: Codes, *, shifted: bool = False) -> Batch:
    """Put some histories into a batch.

    Args:
        histories: Where they are.
        rows: Which ones, none of them empty; with `shifted` each of at least two items.
        shifted: Whether to predict: each history loses its last item as input and its first as
            target.
    """
    lengths = histories.lengths[rows]
    order = np.argsort(-lengths, kind="stable")
    rows, lengths = rows[order], lengths[order]
    begins = histories.starts[:-1][rows]
    inputs = histories.cut(begins, lengths - 1 if shifted else lengths)
    targets = histories.cut(begins + 1, lengths - 1).items if shifted else None
    return Batch(
        rows=torch.from_numpy(rows),
        items=torch.from_numpy(inputs.items),
        targets=None if targets is None else torch.from_numpy(targets),
        places=torch.from_numpy(
            np.arange(len(inputs.items)) - inputs.starts[:-1].repeat(inputs.lengths)
        ),
        lengths=torch.from_numpy(inputs.lengths),
    )


@dataclass(frozen=True, slots=True)
class TrainingBatches(Sequence[Batch]):
    """One epoch of shuffled next-item batches, each made when it is asked for.

    Attributes:
        histories: Windows of at least two items.
        parts: Which of them each batch holds.
    """

    histories: Histories
    parts: tuple[Codes, ...]

    @classmethod
    def shuffled(cls, histories: Histories, *, batch_size: int, seed: int, epoch: int) -> Self:
        """Deal all histories out in an order that depends on the seed and the epoch alone.

        Args:
            histories: What to learn from.
            batch_size: Histories per batch; the last batch of an epoch may hold fewer.
            seed: Seed of the order.
            epoch: Which epoch, 0 the first.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(histories))
        n_parts = max(1, -(-len(order) // batch_size)) if len(order) else 0
        return cls(histories, tuple(np.array_split(order, n_parts)) if n_parts else ())

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        return batch_of(self.histories, self.parts[index], shifted=True)


def scoring_batches(histories: Histories, *, max_tokens: int = 16_384) -> Iterator[Batch]:
    """All histories that are not empty, in batches of similar lengths.

    Args:
        histories: What to encode.
        max_tokens: Tokens per batch, at least one history's.

    Yields:
        Batches whose `rows` together name every history that is not empty exactly once.
    """
    lengths = histories.lengths
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    filled = np.cumsum(lengths[order]) // max_tokens
    for part in np.split(order, np.flatnonzero(np.diff(filled)) + 1):
        if len(part):
            yield batch_of(histories, part)
