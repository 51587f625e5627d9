"""What an epoch draws: steps of a size, targets from histories, and items to compare with.

All baselines with a network take their steps from here. Those that cannot learn from every
position of a history at once (`mmsr.py`, `trans2d.py`) draw a bounded number of targets from each
user, other ones in each epoch, so that long histories do not outweigh short ones and an epoch
takes bounded time. Those that learn from pairs (`mmgcn.py`, `mgat.py`, `trans2d.py`) draw items
that the user did not choose.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from mllm_msr.baselines._training.histories import Codes, Histories

_STEPS: Final = 16
_SMALLEST_STEP: Final = 32
_SMALLEST_PART: Final = 32

# Drawings that negatives may take until they are new to their user.
_DRAWS: Final = 100


def step_size(batch_size: int | None, n_examples: int, *, usual: int) -> int:
    """Examples per optimiser step.

    Args:
        batch_size: What was set; None leaves it to the data.
        n_examples: Examples of an epoch.
        usual: What suits tens of thousands of users. Fewer examples take smaller steps, down to
            32 or a thirty-second of this, so that an epoch has 16: with one or two, validation
            stops the training before anything is learned.
    """
    if batch_size is not None:
        return batch_size
    smallest = max(_SMALLEST_STEP, usual // _SMALLEST_PART)
    return min(usual, max(smallest, math.ceil(n_examples / _STEPS)))


def drawn_targets(histories: Histories, per_user: int, rng: np.random.Generator) -> Codes:
    """Places of targets among `histories.items`, in random order.

    Args:
        histories: What the users chose.
        per_user: Targets per history, without repetition; fewer where it is too short, none of
            the first items, which have nothing before them.
        rng: Decides.
    """
    lengths = histories.lengths
    owners = np.repeat(np.arange(len(histories)), lengths)
    first = np.zeros(len(histories.items), dtype=bool)
    first[histories.starts[:-1][lengths > 0]] = True
    order = np.lexsort((rng.random(len(owners)), first, owners))
    rank = np.arange(len(order)) - histories.starts[:-1][owners]
    places = order[(rank < per_user) & ~first[order]]
    return rng.permutation(places)


def before(histories: Histories, places: Codes, *, max_length: int) -> Histories:
    """The latest items before each target: one history per place, none of them empty.

    Args:
        histories: What the users chose.
        places: Targets, as `drawn_targets` gives them.
        max_length: Items at most.
    """
    lengths = np.minimum(places - histories.starts[owners_of(histories, places)], max_length)
    return histories.cut(places - lengths, lengths)


def owners_of(histories: Histories, places: Codes) -> Codes:
    """The history that each place lies in."""
    return np.searchsorted(histories.starts, places, side="right") - 1


def chosen(histories: Histories, rows: Codes) -> Histories:
    """Some of the histories, in the order given."""
    return histories.cut(histories.starts[rows], histories.lengths[rows])


class NegativeItems:
    """Draws items that a user did not choose among those that anybody chose.

    Args:
        users: Users of the interactions, in any order and possibly repeated: [n].
        items: Their items: [n].
        n_items: Number of item codes.
    """

    def __init__(self, users: Codes, items: Codes, *, n_items: int) -> None:
        self._n_items = n_items
        self._pairs = np.unique(users * n_items + items)
        self._chosen = np.unique(items)

    def draw(self, users: Codes, n_negatives: int, rng: np.random.Generator) -> Codes:
        """Items for each user, equally often: [len(users), n_negatives].

        A user who chose nearly everything may get one of his own items.
        """
        owners = np.repeat(users, n_negatives)
        drawn = rng.choice(self._chosen, len(owners))
        met = np.flatnonzero(self._met(owners, drawn))
        for _ in range(_DRAWS):
            if not met.size:
                break
            drawn[met] = rng.choice(self._chosen, met.size)
            met = met[self._met(owners[met], drawn[met])]
        return drawn.reshape(len(users), n_negatives)

    def _met(self, users: Codes, items: Codes) -> npt.NDArray[np.bool_]:
        wanted = users * self._n_items + items
        places = np.minimum(np.searchsorted(self._pairs, wanted), len(self._pairs) - 1)
        met: npt.NDArray[np.bool_] = self._pairs[places] == wanted
        return met
