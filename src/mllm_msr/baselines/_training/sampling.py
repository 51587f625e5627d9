"""Sampling of training examples: batch size, targets within histories, and negative items.

All baselines with a network use `effective_batch_size`. Those that cannot learn from every position
of a history at once (`mmsr.py`, `trans2d.py`) sample a limited number of targets per user,
different ones in each epoch, so that long histories do not dominate and the duration of an epoch is
bounded. Those that learn from pairs (`mmgcn.py`, `mgat.py`, `trans2d.py`) sample items that the
user has not interacted with.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from mllm_msr.baselines._training.histories import Codes, Histories

_STEPS_PER_EPOCH: Final = 16
_MIN_BATCH_SIZE: Final = 32
_MAX_REDUCTION: Final = 32

# Maximum attempts to replace negatives that the user has interacted with.
_MAX_ATTEMPTS: Final = 100


def effective_batch_size(batch_size: int | None, n_examples: int, *, default: int) -> int:
    """Return the number of examples per optimizer step.

    Args:
        batch_size: The setting; `None` derives the size from the data.
        n_examples: Examples of an epoch.
        default: Size for tens of thousands of users. Small data gets smaller batches, at least 32
            and `default` / 32, so that an epoch has 16 of them: with one or two steps per epoch,
            early stopping ends the training before anything is learned.
    """
    if batch_size is not None:
        return batch_size
    smallest = max(_MIN_BATCH_SIZE, default // _MAX_REDUCTION)
    return min(default, max(smallest, math.ceil(n_examples / _STEPS_PER_EPOCH)))


def sample_targets(histories: Histories, per_user: int, rng: np.random.Generator) -> Codes:
    """Sample targets from each history without replacement.

    Args:
        histories: Items of each user.
        per_user: Targets per history; fewer if the history is too short. The first item of a
            history is never a target, because nothing precedes it.
        rng: Source of randomness.

    Returns:
        Positions in `histories.items`, in random order: [n_targets].
    """
    lengths = histories.lengths
    users = np.repeat(np.arange(len(histories)), lengths)
    first = np.zeros(len(histories.items), dtype=bool)
    first[histories.starts[:-1][lengths > 0]] = True
    order = np.lexsort((rng.random(len(users)), first, users))
    rank = np.arange(len(order)) - histories.starts[:-1][users]
    positions = order[(rank < per_user) & ~first[order]]
    return rng.permutation(positions)


def preceding_items(histories: Histories, positions: Codes, *, max_length: int) -> Histories:
    """Return the latest items before each target: one non-empty history per target.

    Args:
        histories: Items of each user.
        positions: Targets, as `sample_targets` returns them.
        max_length: Upper bound on the items per history.
    """
    starts = histories.starts[history_indices(histories, positions)]
    lengths = np.minimum(positions - starts, max_length)
    return histories.slices(positions - lengths, lengths)


def history_indices(histories: Histories, positions: Codes) -> Codes:
    """Return the index of the history that contains each position."""
    return np.searchsorted(histories.starts, positions, side="right") - 1


def select_histories(histories: Histories, rows: Codes) -> Histories:
    """Return some of the histories, in the order of `rows`."""
    return histories.slices(histories.starts[rows], histories.lengths[rows])


class NegativeItems:
    """Sampler of items that a user has not interacted with, among those with interactions.

    Args:
        users: Users of the interactions, in any order, with repetitions: [n].
        items: Items of the interactions: [n].
        n_items: Number of item codes.
    """

    def __init__(self, users: Codes, items: Codes, *, n_items: int) -> None:
        self._n_items = n_items
        self._pairs = np.unique(users * n_items + items)
        self._items = np.unique(items)

    def draw(self, users: Codes, n_negatives: int, rng: np.random.Generator) -> Codes:
        """Sample items for each user, all items with equal probability.

        Users who have interacted with nearly every item may get some of these.

        Returns:
            Item codes: [len(users), n_negatives].
        """
        repeated = np.repeat(users, n_negatives)
        drawn = rng.choice(self._items, len(repeated))
        positives = np.flatnonzero(self._are_positive(repeated, drawn))
        for _ in range(_MAX_ATTEMPTS):
            if not positives.size:
                break
            drawn[positives] = rng.choice(self._items, positives.size)
            positives = positives[self._are_positive(repeated[positives], drawn[positives])]
        return drawn.reshape(len(users), n_negatives)

    def _are_positive(self, users: Codes, items: Codes) -> npt.NDArray[np.bool_]:
        pairs = users * self._n_items + items
        found = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        positive: npt.NDArray[np.bool_] = self._pairs[found] == pairs
        return positive
