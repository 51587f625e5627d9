"""Which examples each optimiser step sees, and at which learning rate: pure functions of a seed.

The trainer asks by step number, so that a resumed run sees exactly what an uninterrupted one
would have seen, and the batch size and the number of accumulated batches only matter through
their product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mllm_msr.config.settings import LearningRateScheduler

# Steps whose examples are sorted together: enough to make batches even, few enough to leave their
# order random. Of a short epoch it is a part, so that hardly an example meets itself in a step.
_WINDOW: Final = 16
_PARTS_OF_EPOCH: Final = 4


class Schedule:
    """The order of the examples.

    Epochs follow each other as one endless stream, each in its own random order, and every step
    takes the same number of examples from it. Within a window of steps the examples are put
    `side_by_side` and the steps shuffled.

    Args:
        lengths: Length of each example, in any unit: [n_examples].
        examples_per_step: Batch size x accumulated batches x devices.
        n_steps: Optimiser steps in all.
        seed: Seed of the order.
        images: Number of what each example shows: [n_examples]; all the same where left out.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        examples_per_step: int,
        *,
        n_steps: int,
        seed: int,
        images: Sequence[int] | None = None,
    ) -> None:
        self._lengths = np.asarray(lengths)
        self._images = np.zeros_like(self._lengths) if images is None else np.asarray(images)
        self.examples_per_step = examples_per_step
        self.n_steps = n_steps
        self._seed = seed
        steps_of_epoch = len(self._lengths) // examples_per_step
        self._window_steps = min(_WINDOW, max(1, steps_of_epoch // _PARTS_OF_EPOCH))
        self._window: tuple[int, NDArray[np.int64]] | None = None

    def step(self, index: int) -> NDArray[np.int64]:
        """Example numbers of a step, as `side_by_side` has them: [examples_per_step].

        Raises:
            IndexError: The step is not one of `n_steps`.
        """
        if not 0 <= index < self.n_steps:
            raise IndexError(f"step {index} of {self.n_steps}")
        number, place = divmod(index, self._window_steps)
        if self._window is None or self._window[0] != number:
            self._window = (number, self._sorted_window(number))
        steps: NDArray[np.int64] = self._window[1][place]
        return steps

    def _sorted_window(self, number: int) -> NDArray[np.int64]:
        size = self.examples_per_step
        first = number * self._window_steps
        n_steps = min(self._window_steps, self.n_steps - first)
        indices = self._stream(first * size, (first + n_steps) * size)
        order = side_by_side(self._lengths[indices], self._images[indices])
        steps = indices[order].reshape(n_steps, size)  # [steps, examples_per_step]
        shuffled = np.random.default_rng([self._seed, 1, number]).permutation(n_steps)
        window: NDArray[np.int64] = steps[shuffled]
        return window

    def _stream(self, start: int, stop: int) -> NDArray[np.int64]:
        """Example numbers at places `start` to `stop` of the endless stream."""
        n_examples = len(self._lengths)
        epochs = range(start // n_examples, (stop - 1) // n_examples + 1)
        orders = np.concatenate(
            [
                np.random.default_rng([self._seed, 0, epoch]).permutation(n_examples)
                for epoch in epochs
            ]
        )
        offset = epochs.start * n_examples
        return orders[start - offset : stop - offset]


def side_by_side(lengths: ArrayLike, images: ArrayLike) -> NDArray[np.int64]:
    """Put examples of one image next to each other, and images of like prompts.

    What the prompts of one image share is then read once (`beginnings`), and little of a batch
    is padding.

    Args:
        lengths: Length of each example: [n].
        images: Number of what each example shows: [n].

    Returns:
        Places of the examples, images of short prompts first: [n].
    """
    lengths = np.asarray(lengths)
    image = np.unique(images, return_inverse=True)[1]
    means = np.bincount(image, weights=lengths) / np.bincount(image)
    return np.lexsort((lengths, image, means[image]))


def count_steps(
    n_examples: int, *, examples_per_step: int, epochs: float, max_steps: int | None
) -> int:
    """Optimiser steps of a training run, at least one.

    Args:
        n_examples: Training examples.
        examples_per_step: Examples that one step sees.
        epochs: Passes over the examples; fractions are allowed.
        max_steps: Upper bound, `None` for none.
    """
    steps = max(1, math.ceil(n_examples * epochs / examples_per_step))
    return steps if max_steps is None else min(steps, max_steps)


def rate_factor(
    step: int, *, n_steps: int, warmup: float, scheduler: LearningRateScheduler
) -> float:
    """Factor of the learning rate at a step, in [0, 1].

    Args:
        step: Steps done so far.
        n_steps: Steps in all.
        warmup: Share of the steps over which the rate rises from near zero, in [0, 1).
        scheduler: What follows: "cosine" falls to zero, "constant" stays at one.
    """
    rising = math.ceil(n_steps * warmup)
    if step < rising:
        return (step + 1) / rising
    if scheduler == "constant":
        return 1.0
    done = min((step - rising) / max(1, n_steps - rising), 1.0)
    return 0.5 * (1.0 + math.cos(math.pi * done))
