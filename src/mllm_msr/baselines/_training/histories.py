"""User histories as integer codes, and batches of them without padding.

All baselines that learn from the order of a history use this module: ids become codes, tables
become `Histories` (the codes of all users in one array), and these become `HistoryBatch`es: the
codes of several histories in one array, longest history first. Histories of equal length are
adjacent, so that a network sees each entry of `HistoryBatch.groups` as a dense block without a copy
and computes nothing for padding (real histories average 9 items, with limits of up to 200).
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

# Code shared by all items without a separate code.
UNKNOWN: Final = 0


@dataclass(frozen=True, slots=True)
class ItemCodes:
    """Codes of item ids: `item_ids[i]` has code i + 1, all other ids have `UNKNOWN`.

    Attributes:
        item_ids: Distinct ids, sorted.
    """

    item_ids: tuple[str, ...]

    @classmethod
    def from_ids(cls, *ids: pl.Series) -> Self:
        """Assign codes to all ids of some columns; the order of the rows does not matter."""
        return cls(tuple(pl.concat(list(ids)).unique().sort().to_list()))

    @property
    def n_codes(self) -> int:
        """Return the number of codes, `UNKNOWN` included."""
        return len(self.item_ids) + 1

    def encode(self, ids: pl.Series) -> Codes:
        """Return the code of each id: [len(ids)]."""
        known = pl.DataFrame({"id": self.item_ids}, schema={"id": pl.String}).with_row_index(
            "code", offset=1
        )
        coded = ids.rename("id").to_frame().join(known, on="id", how="left", maintain_order="left")
        return coded["code"].fill_null(UNKNOWN).to_numpy().astype(np.int64)


@dataclass(frozen=True, slots=True)
class Histories:
    """Item codes of many histories in one array, each with the oldest item first.

    Attributes:
        items: Codes: [n_tokens].
        starts: Boundaries: [n_histories + 1]; history h is items[starts[h]:starts[h + 1]].
        texts: Row of the user's text that is known after each item, see `UserTexts`: [n_tokens];
            `None` if there are no texts.
    """

    items: Codes
    starts: Codes
    texts: Codes | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Codes:
        """Return the number of items per history: [n_histories]."""
        return np.diff(self.starts)

    def __getitem__(self, history: int) -> Codes:
        """Return the codes of one history, oldest first."""
        return self.items[self.starts[history] : self.starts[history + 1]]

    def latest(self, max_length: int) -> Histories:
        """Return the latest `max_length` items of each history."""
        lengths = np.minimum(self.lengths, max_length)
        return self.slices(self.starts[1:] - lengths, lengths)

    def windows(self, max_length: int) -> Histories:
        """Split every history into consecutive windows, so that all of its items are learned.

        Windows start at the end of the history, have at most `max_length` items and overlap by
        one: the last item of a window is the first of the next, where it is only context. Windows
        of one item have nothing to predict and are left out, as are histories of one item.

        Args:
            max_length: Upper bound on the items per window, at least 2.
        """
        step = max_length - 1
        counts = np.maximum(-(-(self.lengths - 1) // step), 0)
        history = np.repeat(np.arange(len(self)), counts)
        # Index of each window in its history, counted from the end: 0 is the latest.
        index = np.arange(len(history)) - np.repeat(np.cumsum(counts) - counts, counts)
        ends = self.starts[1:][history] - index * step
        begins = np.maximum(ends - max_length, self.starts[:-1][history])
        return self.slices(begins, ends - begins)

    def slices(self, begins: Codes, lengths: Codes) -> Histories:
        """Return slices of `items` as new histories.

        Args:
            begins: First position of each slice in `items`: [n_new].
            lengths: Items of each slice, 0 or more: [n_new].
        """
        starts = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        tokens = np.repeat(begins, lengths) + within
        texts = None if self.texts is None else self.texts[tokens]
        return Histories(self.items[tokens], starts, texts)


@dataclass(frozen=True, slots=True)
class UserTexts:
    """Texts about users, such as written preferences, and the position from which each is known.

    Attributes:
        rows: Columns `user_id` and `position`. A target at this position or a later one may read
            the text. Text i has row i + 1; row 0 stands for no text.
    """

    rows: pl.DataFrame

    def after(self, interactions: pl.DataFrame) -> Codes:
        """Return the row of the latest text that is known after each interaction, 0 for none.

        Args:
            interactions: Columns `user_id` and `position`.
        """
        known = self.rows.select(
            "user_id", pl.col("position").cast(pl.Int64), text=pl.int_range(1, pl.len() + 1)
        )
        targets = interactions.select("user_id", pl.col("position").cast(pl.Int64) + 1)
        found = (
            targets.with_row_index("key")
            .sort("position")
            .join_asof(known.sort("position"), on="position", by="user_id", check_sortedness=False)
            .sort("key")
        )
        return found["text"].fill_null(0).to_numpy().astype(np.int64)


def user_histories(
    interactions: pl.DataFrame, codes: ItemCodes, texts: UserTexts | None = None
) -> tuple[tuple[str, ...], Histories]:
    """Return the full history of each user, in the order of positions.

    Args:
        interactions: `tables.INTERACTIONS`, rows in any order.
        codes: Codes of the items; rows of unknown items are dropped.
        texts: Texts about the users.

    Returns:
        Sorted user ids, and one history for each.
    """
    rows = interactions.select("user_id", "item_id", "position").sort("user_id", "position")
    users = rows["user_id"].unique(maintain_order=True)
    keys = pl.DataFrame({"user_id": users, "position": np.iinfo(np.int32).max})
    return tuple(users), histories_before(keys, rows, codes, texts)


def histories_before(
    keys: pl.DataFrame,
    interactions: pl.DataFrame,
    codes: ItemCodes,
    texts: UserTexts | None = None,
) -> Histories:
    """Return the history of each user before a position.

    Args:
        keys: Columns `user_id` and `position`, one history per row. Users may be repeated, with
            equal or different positions, and may be unknown.
        interactions: `tables.INTERACTIONS`, rows in any order.
        codes: Codes of the items; rows of unknown items are dropped.
        texts: Texts about the users.

    Returns:
        One history per row of `keys`, in the same order; empty if nothing precedes the position.
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
    indexed = keys.select("user_id", pl.col("position").cast(pl.Int64)).with_row_index("key")
    # The latest row before the position has the end and the length of the history.
    found = (
        indexed.sort("position")
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
    whole = Histories(
        rows["code"].to_numpy(),
        np.array([0, rows.height]),
        None if texts is None else texts.after(rows),
    )
    return whole.slices(found["end"].to_numpy() - lengths, lengths)


@dataclass(frozen=True, slots=True)
class HistoryBatch:
    """Several histories as tensors, longest first, without padding.

    Attributes:
        rows: Indices of the histories among those batched: [n_histories].
        items: Codes of all histories in one array: [n_tokens].
        targets: The item that followed each token: [n_tokens]; `None` for scoring.
        positions: Position of each token in its history, 0 is the oldest: [n_tokens].
        lengths: Tokens per history, descending: [n_histories], on the CPU.
        texts: Row of the user's text that is known after each token: [n_tokens]; `None` if there
            are no texts.
    """

    rows: Tensor
    items: Tensor
    targets: Tensor | None
    positions: Tensor
    lengths: Tensor
    texts: Tensor | None = None

    @property
    def n_histories(self) -> int:
        """Return the number of histories."""
        return len(self.lengths)

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Return runs of histories of equal length as (number of histories, length), in order.

        The tokens of a group are adjacent: `torch.split` of [n_tokens, ...] by `n * length` and a
        view as [n, length, ...] give dense blocks.
        """
        lengths, counts = torch.unique_consecutive(self.lengths, return_counts=True)
        return list(zip(counts.tolist(), lengths.tolist(), strict=True))

    @property
    def last(self) -> Tensor:
        """Return the index of the latest token of each history: [n_histories]."""
        return (self.lengths.cumsum(0) - 1).to(self.items.device)

    def by_time(self) -> tuple[Tensor, Tensor]:
        """Return the order in which a recurrent network reads the tokens.

        Returns:
            Token indices [n_tokens] (all first tokens, then all second tokens, and so on), and the
            number of histories that have a token at each position [longest], on the CPU.
            `torch.nn.utils.rnn.PackedSequence` takes `items[order]` and these sizes directly.
        """
        longest = int(self.lengths[0]) if self.n_histories else 0
        order = torch.argsort(self.positions, stable=True)
        sizes = (self.lengths[None] > torch.arange(longest)[:, None]).sum(1)
        return order, sizes

    def to(self, device: torch.device | str) -> HistoryBatch:
        """Copy the batch to a device."""
        return HistoryBatch(
            rows=self.rows.to(device),
            items=self.items.to(device),
            targets=None if self.targets is None else self.targets.to(device),
            positions=self.positions.to(device),
            lengths=self.lengths,
            texts=None if self.texts is None else self.texts.to(device),
        )


def batch_of(histories: Histories, rows: Codes, *, shifted: bool = False) -> HistoryBatch:
    """Build a batch from some of the histories.

    Args:
        histories: All histories.
        rows: Indices of the histories to batch; these are not empty, and with `shifted` have at
            least two items.
        shifted: Whether to build targets for next-item prediction: the inputs omit the last item
            of each history, the targets the first.
    """
    lengths = histories.lengths[rows]
    order = np.argsort(-lengths, kind="stable")
    rows, lengths = rows[order], lengths[order]
    begins = histories.starts[:-1][rows]
    inputs = histories.slices(begins, lengths - 1 if shifted else lengths)
    targets = histories.slices(begins + 1, lengths - 1).items if shifted else None
    return HistoryBatch(
        rows=torch.from_numpy(rows),
        items=torch.from_numpy(inputs.items),
        targets=None if targets is None else torch.from_numpy(targets),
        positions=torch.from_numpy(
            np.arange(len(inputs.items)) - inputs.starts[:-1].repeat(inputs.lengths)
        ),
        lengths=torch.from_numpy(inputs.lengths),
        texts=None if inputs.texts is None else torch.from_numpy(inputs.texts),
    )


@dataclass(frozen=True, slots=True)
class TrainingBatches(Sequence[HistoryBatch]):
    """Shuffled next-item batches of one epoch, each built on access.

    Attributes:
        histories: Windows of at least two items.
        parts: Indices of the windows in each batch.
    """

    histories: Histories
    parts: tuple[Codes, ...]

    @classmethod
    def shuffled(cls, histories: Histories, *, batch_size: int, seed: int, epoch: int) -> Self:
        """Distribute all histories over batches, in an order given by the seed and the epoch.

        Args:
            histories: Windows of at least two items.
            batch_size: Upper bound on the histories per batch; sizes differ by at most one.
            seed: Seed of the order.
            epoch: Number of the epoch, 0 is the first.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(histories))
        n_parts = max(1, -(-len(order) // batch_size)) if len(order) else 0
        return cls(histories, tuple(np.array_split(order, n_parts)) if n_parts else ())

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> HistoryBatch:  # type: ignore[override]
        return batch_of(self.histories, self.parts[index], shifted=True)


def scoring_batches(histories: Histories, *, max_tokens: int = 16_384) -> Iterator[HistoryBatch]:
    """Yield batches of all non-empty histories, with similar lengths together.

    Args:
        histories: Histories to encode.
        max_tokens: Approximate number of tokens per batch; a batch has at least one history.

    Yields:
        Batches whose `rows` contain every non-empty history exactly once.
    """
    lengths = histories.lengths
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    filled = np.cumsum(lengths[order]) // max_tokens
    for part in np.split(order, np.flatnonzero(np.diff(filled)) + 1):
        if len(part):
            yield batch_of(histories, part)
