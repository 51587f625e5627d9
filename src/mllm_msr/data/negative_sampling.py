"""Candidate tables: each target among sampled items that the user never met.

Drawn once, written to disk, and shared by all methods (paper, section 5.1: one negative per
positive in training, twenty in the test). Negatives come uniformly and, because uniform ones
flatter whatever knows popularity, also in proportion to popularity.

Every draw is a function of (seed, user, target, draw number): a user's uniform negatives depend
on the catalogue and the user's own history only, popularity ones on the item counts besides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.data._hashing import Hashes, below, fraction, hash_ids, mix
from mllm_msr.data._id_encoding import Blocks, Codes, blocks
from mllm_msr.data.splits import split_codes
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.tables import CANDIDATES, conform, empty

Negatives = Literal["uniform", "popularity"]
TrainTargets = Literal["last", "blocks", "all"]

_CHUNK: Final = 1 << 16
# Rejection looks at so many draws per negative before the exact, slower way takes over.
_PATIENCE: Final = 32


def draw_candidates(
    interactions: pl.DataFrame,
    splits: pl.DataFrame,
    *,
    negatives: Sequence[Negatives] = ("uniform", "popularity"),
    n_negatives: int = 20,
    train_negatives: int = 1,
    train_targets: TrainTargets = "last",
    block_size: int = 3,
    folds: Sequence[int] | None = None,
    max_test_users: int | None = None,
    max_validation_users: int | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Draw the candidates of the given folds.

    A negative is an item of the catalogue (all items of `interactions`) that does not occur
    anywhere in the user's history, the target included; the negatives of a target are distinct.
    Popularity negatives are drawn one after the other with weights equal to the items' counts
    in the fold's visible interactions, that is, without any hidden target. The positive stands
    at a random place among its negatives.

    Args:
        interactions: `tables.INTERACTIONS`.
        splits: The columns of `splits.SPLITS`.
        negatives: Kinds to draw for validation and test; training rows are always uniform.
        n_negatives: Negatives per validation or test target.
        train_negatives: Negatives per training target.
        train_targets: Which interactions of the training users are targets: the "last" one;
            "blocks", the last and each one that follows a full number of blocks; or "all" that
            have a history. Validation and test users have one target, their last interaction.
        block_size: Interactions per block, for "blocks".
        folds: Folds to draw, all by default.
        max_test_users: Keep a seeded sample of at most so many test users per fold.
        max_validation_users: The same for validation users.
        seed: Seed of all draws.

    Returns:
        `tables.CANDIDATES`, in the order of fold, split (train, validation, test), kind of
        negatives, user and position.

    Raises:
        SettingsError: A setting is out of its range.
        DataError: A user has met so much of the catalogue that too few items are left.
    """
    _check_settings(negatives, n_negatives, train_negatives, train_targets, block_size)
    sequences = blocks(interactions)
    sampler = _Sampler.over(sequences, seed=seed)
    orders = {
        "train": _Order(train_targets, ("uniform",), train_negatives, None),
        "validation": _Order("last", negatives, n_negatives, max_validation_users),
        "test": _Order("last", negatives, n_negatives, max_test_users),
    }
    if folds is None:
        folds = splits["fold"].unique().sort().to_list()
    parts = [empty(CANDIDATES)]
    for fold in folds:
        split_of = split_codes(sequences.users, splits, fold)
        parts += _fold_tables(sampler, split_of, orders, fold=fold, block_size=block_size)
    return pl.concat(parts, rechunk=False)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is drawn for the users of one split.

    Attributes:
        targets: Which of their interactions are targets.
        kinds: Kinds of negatives.
        n_negatives: Negatives per target and kind.
        max_users: A seeded sample of at most so many users; None for all.
    """

    targets: TrainTargets
    kinds: Sequence[Negatives]
    n_negatives: int
    max_users: int | None


@dataclass(frozen=True, slots=True)
class _Sampler:
    """Draws items outside a user's history.

    Attributes:
        blocks: The interactions.
        user: Shape [n_rows]; the user code of each interaction.
        pairs: Shape [n_rows]; user * n_items + item, sorted: a user's pairs are the same rows
            as the user's block.
        hashes: Shape [n_users]; opens each user's stream of random numbers.
    """

    blocks: Blocks
    user: Codes
    pairs: Codes
    hashes: Hashes

    @classmethod
    def over(cls, sequences: Blocks, *, seed: int) -> _Sampler:
        """A sampler for all users of the interactions."""
        user = sequences.user
        return cls(
            blocks=sequences,
            user=user,
            pairs=np.sort(user * len(sequences.items) + sequences.item),
            hashes=hash_ids(sequences.users, seed, purpose="negatives"),
        )

    def draw(
        self, rows: Codes, *, n_negatives: int, weights: npt.NDArray[np.int64] | None
    ) -> npt.NDArray[np.int32]:
        """Negatives for targets.

        Args:
            rows: Shape [n]; the targets' rows among the interactions, ascending.
            n_negatives: Negatives per target.
            weights: Shape [n_items]; how often an item is drawn relative to others, `None` for
                equally often.

        Returns:
            Shape [n, 1 + n_negatives]; item codes, the target anywhere among its negatives.
        """
        cumulated = None if weights is None else np.cumsum(weights)
        weightless = cumulated is not None and not cumulated[-1:].any()
        drawn = np.empty((len(rows), 1 + n_negatives), dtype=np.int32)
        for begin in range(0, len(rows), _CHUNK):
            chunk = rows[begin : begin + _CHUNK]
            into = drawn[begin : begin + _CHUNK]
            streams = mix(self.hashes[self.user[chunk]], self.blocks.position[chunk])
            into[:, 0] = self.blocks.item[chunk]
            into[:, 1:] = -1
            if not weightless:
                self._reject(into[:, 1:], chunk, streams, cumulated)
            for place in np.flatnonzero(into[:, -1] < 0):
                into[place, 1:] = self._exact(chunk[place], streams[place], n_negatives, weights)
            into[:] = np.take_along_axis(into, np.argsort(mix(~streams[:, None], into)), axis=1)
        return drawn

    def _reject(
        self,
        into: npt.NDArray[np.int32],
        rows: Codes,
        streams: Hashes,
        cumulated: npt.NDArray[np.int64] | None,
    ) -> None:
        """Fill rows with the first acceptable draws; -1 stays where patience ended."""
        n_negatives = into.shape[1]
        open_rows, n_draws = np.arange(len(rows)), n_negatives + 4
        while len(open_rows) and n_draws <= _PATIENCE * (n_negatives + 4):
            numbers = mix(streams[open_rows, None], np.arange(n_draws)[None, :])
            if cumulated is None:
                items = below(numbers, len(self.blocks.items))
            else:
                items = np.searchsorted(cumulated, below(numbers, int(cumulated[-1])), "right")
            good = ~self._met(self.user[rows[open_rows]], items) & _first_in_row(items)
            enough = good.sum(axis=1) >= n_negatives
            good = good[enough] & (np.cumsum(good[enough], axis=1) <= n_negatives)
            into[open_rows[enough]] = items[enough][good].reshape(-1, n_negatives)
            open_rows, n_draws = open_rows[~enough], n_draws * 2

    def _met(self, user: Codes, items: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether the users (ascending, shape [n]) ever met the items (shape [n, m])."""
        # Searching in the chunk's own stretch of pairs keeps the search in the cache.
        first, end = self.blocks.starts[user[0]], self.blocks.starts[user[-1] + 1]
        stretch = self.pairs[first:end]
        wanted = user[:, None] * len(self.blocks.items) + items
        place = np.minimum(np.searchsorted(stretch, wanted), len(stretch) - 1)
        return np.asarray(stretch[place] == wanted)

    def _exact(
        self,
        row: int,
        stream: np.uint64,
        n_negatives: int,
        weights: npt.NDArray[np.int64] | None,
    ) -> npt.NDArray[np.int64]:
        """The same law over the whole catalogue, by exponential races; for crowded histories."""
        user, n_items = self.user[row], len(self.blocks.items)
        block = slice(self.blocks.starts[user], self.blocks.starts[user + 1])
        times = -np.log(fraction(mix(np.array([stream]), np.arange(n_items))))
        if weights is not None:
            # Items of weight zero come last, in random order.
            times = np.where(weights > 0, times / np.maximum(weights, 1), times + 1e6)
        times[self.blocks.item[block]] = np.inf
        chosen: npt.NDArray[np.int64] = np.argsort(times, kind="stable")[:n_negatives]
        left = int(np.isfinite(times).sum())
        if left < n_negatives:
            raise DataError(
                needed=f"{n_negatives} items that user {self.blocks.users[int(user)]!r} never met",
                received=f"{left} of {n_items}",
                remedy="lower data.n_negatives or data.train_negatives, or bring more items",
            )
        return chosen


def _first_in_row(items: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mask of entries without an equal one to their left."""
    order = np.argsort(items, axis=1, kind="stable")
    ranked = np.take_along_axis(items, order, axis=1)
    first = np.ones(items.shape, dtype=bool)
    first[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    mask = np.empty_like(first)
    np.put_along_axis(mask, order, first, axis=1)
    return mask


def _fold_tables(
    sampler: _Sampler,
    split_of: npt.NDArray[np.integer],
    orders: Mapping[str, _Order],
    *,
    fold: int,
    block_size: int,
) -> Iterator[pl.DataFrame]:
    """The candidates of one fold, a table for each split and kind of negatives.

    Args:
        sampler: Draws the negatives.
        split_of: Shape [n_users]; each user's split as a place in `orders`.
        orders: What is drawn, by split.
        fold: The fold's number.
        block_size: Interactions per block.
    """
    sequences = sampler.blocks
    weights = {"uniform": None, "popularity": _visible_counts(sequences, split_of)}
    for code, (split, order) in enumerate(orders.items()):
        users = _sampled(np.flatnonzero(split_of == code), sampler, order.max_users)
        rows = _target_rows(sequences, users, which=order.targets, block_size=block_size)
        for kind in order.kinds:
            drawn = sampler.draw(rows, n_negatives=order.n_negatives, weights=weights[kind])
            yield _to_table(drawn, rows, sampler, fold=fold, split=split, kind=kind)


def _visible_counts(sequences: Blocks, split_of: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Interactions per item, without the last one of validation and test users."""
    counts = np.bincount(sequences.item, minlength=len(sequences.items))
    hidden = sequences.item[sequences.last[split_of != 0]]
    return counts - np.bincount(hidden, minlength=len(sequences.items))


def _sampled(users: Codes, sampler: _Sampler, limit: int | None) -> Codes:
    """The users with the smallest hashes, in ascending order of their codes."""
    if limit is None or len(users) <= limit:
        return users
    return np.sort(users[np.argsort(sampler.hashes[users], kind="stable")[:limit]])


def _target_rows(sequences: Blocks, users: Codes, *, which: TrainTargets, block_size: int) -> Codes:
    """Rows of the users' targets, ascending."""
    if which == "last":
        last: Codes = sequences.last[users]
        return last
    lengths = np.diff(sequences.starts)[users]
    ends = np.cumsum(lengths)
    offset = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
    rows = np.repeat(sequences.starts[users], lengths) + offset
    step = block_size if which == "blocks" else 1
    wanted = (offset > 0) & (offset % step == 0)
    wanted |= offset == np.repeat(lengths - 1, lengths)
    chosen: Codes = rows[wanted]
    return chosen


def _to_table(
    drawn: npt.NDArray[np.int32],
    rows: Codes,
    sampler: _Sampler,
    *,
    fold: int,
    split: str,
    kind: Negatives,
) -> pl.DataFrame:
    """`tables.CANDIDATES` from item codes of shape [n, 1 + n_negatives]."""
    width = drawn.shape[1]
    sequences = sampler.blocks
    frame = pl.DataFrame(
        {
            "user_id": sequences.users.gather(np.repeat(sampler.user[rows], width)),
            "position": np.repeat(sequences.position[rows], width),
            "item_id": sequences.items.gather(drawn.ravel()),
            "label": (drawn == sequences.item[rows, None]).ravel().astype(np.int8),
        }
    )
    constants = {"fold": fold, "split": split, "negatives": kind}
    named = frame.with_columns(pl.lit(value).alias(name) for name, value in constants.items())
    return conform(named, CANDIDATES, name="candidates")


def _check_settings(
    negatives: Sequence[str],
    n_negatives: int,
    train_negatives: int,
    train_targets: str,
    block_size: int,
) -> None:
    """Raise `SettingsError` with all that is wrong."""
    kinds, targets = get_args(Negatives), get_args(TrainTargets)
    problems = [
        f"{name} must be at least 1, it is {value}"
        for name, value in (
            ("n_negatives", n_negatives),
            ("train_negatives", train_negatives),
            ("block_size", block_size),
        )
        if value < 1
    ]
    if not negatives or not set(negatives) <= set(kinds) or len(set(negatives)) < len(negatives):
        problems.append(f"negatives must be some of {', '.join(kinds)}, it is {list(negatives)}")
    if train_targets not in targets:
        problems.append(
            f"train_targets must be one of {', '.join(targets)}, it is {train_targets!r}"
        )
    if problems:
        raise SettingsError(problems)
