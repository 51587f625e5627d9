"""Negative sampling: candidate tables of each target and sampled items that are new to the user.

Candidates are sampled once, written to the run folder and shared by all models (paper, section
5.1: one negative per positive in training, twenty in the test). Negatives are sampled uniformly
and also in proportion to popularity, because uniform negatives favor models that only rank by
popularity.

Every draw is a function of (seed, user, target, draw number). The uniform negatives of a user
depend only on the catalog and on the user's own history; the popularity negatives also depend on
the item counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.data.hashing import Hashes, hash_ids, mix, to_integers, to_unit_interval
from mllm_msr.data.id_encoding import Codes, UserSequences, encode_interactions
from mllm_msr.data.splits import split_codes
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.tables import CANDIDATES, as_frame, conform, empty

Negatives = Literal["uniform", "popularity"]
TrainTargets = Literal["last", "blocks", "all"]

# Number of targets per chunk; it limits the memory of intermediate arrays.
_CHUNK: Final = 1 << 16
# Maximum number of draws per negative in rejection sampling. Targets that need more are sampled
# exactly, which is slower.
_MAX_DRAWS_PER_NEGATIVE: Final = 32


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

    A negative is an item of `interactions` that does not occur anywhere in the user's history,
    target included. The negatives of a target are distinct. Popularity negatives are drawn without
    replacement, weighted by the item counts in the fold's visible interactions, which exclude
    hidden targets. The positive has a random position among its negatives.

    Args:
        interactions: `tables.INTERACTIONS`.
        splits: The columns of `splits.SPLITS`.
        negatives: Kinds for validation and test. Training negatives are always uniform.
        n_negatives: Negatives per validation or test target.
        train_negatives: Negatives per training target.
        train_targets: Targets of the training users: "last", the last interaction; "blocks", the
            last one and each one that follows a full block; "all", each one that has a history.
            Validation and test users have one target, their last interaction.
        block_size: Interactions per block, for "blocks".
        folds: Folds to draw, all by default.
        max_test_users: Size of a seeded sample of test users per fold; `None` keeps all.
        max_validation_users: The same for validation users.
        seed: Seed of all draws.

    Returns:
        `tables.CANDIDATES`, sorted by fold, split (train, validation, test), kind of negatives,
        user and position.

    Raises:
        SettingsError: A setting is out of its range.
        DataError: Too few items are new to a user.
    """
    negatives = tuple(dict.fromkeys(negatives))
    _check_settings(negatives, n_negatives, train_negatives, train_targets, block_size)
    interactions = as_frame(interactions, name="interactions")
    splits = as_frame(splits, name="splits")
    sampler = NegativeSampler.from_sequences(encode_interactions(interactions), seed=seed)
    plans = {
        "train": _SplitPlan(train_targets, ("uniform",), train_negatives, None),
        "validation": _SplitPlan("last", negatives, n_negatives, max_validation_users),
        "test": _SplitPlan("last", negatives, n_negatives, max_test_users),
    }
    parts = [empty(CANDIDATES)]
    for fold in dict.fromkeys(splits["fold"].sort().to_list() if folds is None else folds):
        codes = split_codes(sampler.sequences.users, splits, fold)
        parts += _fold_tables(sampler, codes, plans, fold=fold, block_size=block_size)
    return pl.concat(parts, rechunk=False)


@dataclass(frozen=True, slots=True)
class _SplitPlan:
    """The candidates to draw for the users of one split.

    Attributes:
        targets: Which of their interactions are targets.
        kinds: Kinds of negatives.
        n_negatives: Negatives per target and kind.
        max_users: Size of a seeded sample of the users, `None` for all.
    """

    targets: TrainTargets
    kinds: Sequence[Negatives]
    n_negatives: int
    max_users: int | None


@dataclass(frozen=True, slots=True)
class NegativeSampler:
    """Sampler of items that are not in a user's history.

    Attributes:
        sequences: The interactions.
        user_codes: Shape [n_rows]. The user of each interaction.
        pairs: Shape [n_rows]. user * n_items + item, sorted; the pairs of a user occupy the same
            rows as the user's interactions.
        hashes: Shape [n_users]. The random stream of each user.
    """

    sequences: UserSequences
    user_codes: Codes
    pairs: Codes
    hashes: Hashes

    @classmethod
    def from_sequences(
        cls, sequences: UserSequences, *, seed: int, purpose: str = "negatives"
    ) -> NegativeSampler:
        """Return a sampler for all users of the interactions.

        Args:
            sequences: The interactions.
            seed: Seed of all draws.
            purpose: Samplers with different purposes draw independently.
        """
        user_codes = sequences.user_codes
        return cls(
            sequences=sequences,
            user_codes=user_codes,
            pairs=np.sort(user_codes * len(sequences.items) + sequences.item_columns),
            hashes=hash_ids(sequences.users, seed, purpose=purpose),
        )

    def draw(
        self, rows: Codes, *, n_negatives: int, weights: npt.NDArray[np.int64] | None
    ) -> npt.NDArray[np.int32]:
        """Draw the candidates of the given targets.

        Args:
            rows: Shape [n]. Rows of the targets among the interactions, ascending.
            n_negatives: Negatives per target.
            weights: Shape [n_items]. Sampling weight of each item, `None` for equal weights.

        Returns:
            Shape [n, 1 + n_negatives]. Item codes; the target is in a random column.
        """
        cumulative = None if weights is None else np.cumsum(weights)
        all_zero = cumulative is not None and not cumulative[-1:].any()
        drawn = np.empty((len(rows), 1 + n_negatives), dtype=np.int32)
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            out = drawn[start : start + _CHUNK]
            streams = mix(self.hashes[self.user_codes[chunk]], self.sequences.positions[chunk])
            out[:, 0] = self.sequences.item_columns[chunk]
            out[:, 1:] = -1
            if not all_zero:
                self._draw_by_rejection(out[:, 1:], chunk, streams, cumulative)
            for i in np.flatnonzero(out[:, -1] < 0):
                out[i, 1:] = self._draw_exactly(chunk[i], streams[i], n_negatives, weights)
            out[:] = np.take_along_axis(out, np.argsort(mix(~streams[:, None], out)), axis=1)
        return drawn

    def _draw_by_rejection(
        self,
        out: npt.NDArray[np.int32],
        rows: Codes,
        streams: Hashes,
        cumulative: npt.NDArray[np.int64] | None,
    ) -> None:
        """Fill rows of `out` with the first valid draws; leave -1 in rows with too few."""
        n_negatives = out.shape[1]
        pending, n_draws = np.arange(len(rows)), n_negatives + 4
        while len(pending) and n_draws <= _MAX_DRAWS_PER_NEGATIVE * (n_negatives + 4):
            numbers = mix(streams[pending, None], np.arange(n_draws)[None, :])
            if cumulative is None:
                items = to_integers(numbers, len(self.sequences.items))
            else:
                levels = to_integers(numbers, int(cumulative[-1]))
                items = np.searchsorted(cumulative, levels, "right")
            good = ~self._in_history(self.user_codes[rows[pending]], items) & _first_in_row(items)
            enough = good.sum(axis=1) >= n_negatives
            good = good[enough] & (np.cumsum(good[enough], axis=1) <= n_negatives)
            out[pending[enough]] = items[enough][good].reshape(-1, n_negatives)
            pending, n_draws = pending[~enough], n_draws * 2

    def _in_history(self, user: Codes, items: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which items are in the users' histories.

        Args:
            user: Shape [n], ascending.
            items: Shape [n, m].

        Returns:
            Shape [n, m].
        """
        # Searching only the pairs of the chunk's users keeps the search in the CPU cache.
        first, end = self.sequences.starts[user[0]], self.sequences.starts[user[-1] + 1]
        pairs = self.pairs[first:end]
        wanted = user[:, None] * len(self.sequences.items) + items
        index = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        return np.asarray(pairs[index] == wanted)

    def _draw_exactly(
        self,
        row: int,
        stream: np.uint64,
        n_negatives: int,
        weights: npt.NDArray[np.int64] | None,
    ) -> npt.NDArray[np.int64]:
        """Draw from the same distribution by ranking the whole catalog.

        Used for users who have interacted with most of the catalog, for whom rejection sampling
        needs many draws.
        Each item gets an exponential arrival time whose rate is its weight; the first items to
        arrive are a weighted sample without replacement (Efraimidis and Spirakis 2006).

        Raises:
            DataError: Too few items are new to the user.
        """
        user, n_items = self.user_codes[row], len(self.sequences.items)
        history = slice(self.sequences.starts[user], self.sequences.starts[user + 1])
        times = -np.log(to_unit_interval(mix(np.array([stream]), np.arange(n_items))))
        if weights is not None:
            # Items of weight zero come last, in random order.
            times = np.where(weights > 0, times / np.maximum(weights, 1), times + 1e6)
        times[self.sequences.item_columns[history]] = np.inf
        first: npt.NDArray[np.int64] = np.argsort(times, kind="stable")[:n_negatives]
        n_new = int(np.isfinite(times).sum())
        if n_new < n_negatives:
            fewest = self._fewest_new_items()
            lower = "Lower data.n_negatives or data.train_negatives to at most"
            fix = f"{lower} {fewest}, or provide more items." if fewest else "Provide more items."
            raise DataError(
                f"Cannot draw {n_negatives} negatives for user "
                f"{self.sequences.users[int(user)]!r}: only {n_new} of {n_items} items are not in "
                f"their history. {fix}"
            )
        return first

    def _fewest_new_items(self) -> int:
        """Return the smallest number of items that are new to a user."""
        histories = np.split(self.sequences.item_columns, self.sequences.starts[1:-1])
        return len(self.sequences.items) - max(len(np.unique(one)) for one in histories)


def _first_in_row(items: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mark the entries that have no equal entry to their left, shape [n, m]."""
    order = np.argsort(items, axis=1, kind="stable")
    ranked = np.take_along_axis(items, order, axis=1)
    first = np.ones(items.shape, dtype=bool)
    first[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    mask = np.empty_like(first)
    np.put_along_axis(mask, order, first, axis=1)
    return mask


def _fold_tables(
    sampler: NegativeSampler,
    codes: npt.NDArray[np.integer],
    plans: Mapping[str, _SplitPlan],
    *,
    fold: int,
    block_size: int,
) -> Iterator[pl.DataFrame]:
    """Yield the candidates of one fold, one table for each split and kind of negatives.

    Args:
        sampler: Sampler of the negatives.
        codes: Shape [n_users]. The split of each user, as an index into `plans`.
        plans: What to draw for each split.
        fold: Number of the fold.
        block_size: Interactions per block.
    """
    sequences = sampler.sequences
    # Popularity counts exclude the hidden targets of validation and test users.
    n_items = len(sequences.items)
    hidden = sequences.item_columns[sequences.last_rows[codes != 0]]
    counts = np.bincount(sequences.item_columns, minlength=n_items)
    weights = {"uniform": None, "popularity": counts - np.bincount(hidden, minlength=n_items)}
    for code, (split, plan) in enumerate(plans.items()):
        users = np.flatnonzero(codes == code)
        if plan.max_users is not None and len(users) > plan.max_users:
            by_hash = np.argsort(sampler.hashes[users], kind="stable")
            users = np.sort(users[by_hash[: plan.max_users]])
        rows = _target_rows(sequences, users, which=plan.targets, block_size=block_size)
        for kind in plan.kinds:
            items = sampler.draw(rows, n_negatives=plan.n_negatives, weights=weights[kind])
            width = items.shape[1]
            table = pl.DataFrame(
                {
                    "user_id": sequences.users.gather(np.repeat(sampler.user_codes[rows], width)),
                    "position": np.repeat(sequences.positions[rows], width),
                    "item_id": sequences.items.gather(items.ravel()),
                    "label": (items == sequences.item_columns[rows, None]).ravel().astype(np.int8),
                }
            ).with_columns(fold=pl.lit(fold), split=pl.lit(split), negatives=pl.lit(kind))
            yield conform(table, CANDIDATES, name="candidates")


def _target_rows(
    sequences: UserSequences, users: Codes, *, which: TrainTargets, block_size: int
) -> Codes:
    """Return the rows of the users' targets, ascending."""
    if which == "last":
        last: Codes = sequences.last_rows[users]
        return last
    lengths = np.diff(sequences.starts)[users]
    ends = np.cumsum(lengths)
    offset = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
    rows = np.repeat(sequences.starts[users], lengths) + offset
    step = block_size if which == "blocks" else 1
    is_target = (offset > 0) & (offset % step == 0)
    is_target |= offset == np.repeat(lengths - 1, lengths)
    targets: Codes = rows[is_target]
    return targets


def _check_settings(
    negatives: Sequence[str],
    n_negatives: int,
    train_negatives: int,
    train_targets: str,
    block_size: int,
) -> None:
    """Raise `SettingsError` with every setting that is out of its range."""
    kinds, targets = get_args(Negatives), get_args(TrainTargets)
    problems = [
        f"{name} is {value}. It must be at least 1."
        for name, value in (
            ("data.n_negatives", n_negatives),
            ("data.train_negatives", train_negatives),
            ("infer.block_size", block_size),
        )
        if value < 1
    ]
    if not negatives or not set(negatives) <= set(kinds) or len(set(negatives)) < len(negatives):
        problems.append(
            f"data.negatives is {list(negatives)}. "
            f"List one or more of {', '.join(kinds)}, each once."
        )
    if train_targets not in targets:
        problems.append(
            f"data.train_targets is {train_targets!r}. Choose one of {', '.join(targets)}."
        )
    if problems:
        raise SettingsError(problems)
