"""Examples and learning rate of each optimizer step, as functions of the seed and the step.

A resumed run therefore sees exactly the same examples as an uninterrupted one, and only the product
of batch size and accumulated batches matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mllm_msr.config.settings import LearningRateScheduler

# Steps whose examples are sorted together: enough to fill batches with prompts of similar length,
# but few enough to keep the order random. In short epochs the window is a fraction of the epoch,
# so that a step rarely contains the same example twice.
_WINDOW_STEPS: Final = 16
_WINDOWS_PER_EPOCH: Final = 4


class StepSampler:
    """Sampler of the examples of each optimizer step.

    Epochs, each in its own random order, form one stream, from which every step takes the same
    number of examples. Within a window of steps, examples are sorted by `group_by_image` and the
    steps are shuffled.

    Args:
        lengths: Length of each example, in any unit: [n_examples].
        examples_per_step: Batch size x accumulated batches x devices.
        n_steps: Number of optimizer steps.
        seed: Seed of the order.
        image_groups: Group number of each example, equal for equal images: [n_examples]; without
            it, all examples are in one group.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        examples_per_step: int,
        *,
        n_steps: int,
        seed: int,
        image_groups: Sequence[int] | None = None,
    ) -> None:
        self._lengths = np.asarray(lengths)
        self._groups = (
            np.zeros_like(self._lengths) if image_groups is None else np.asarray(image_groups)
        )
        self.examples_per_step = examples_per_step
        self.n_steps = n_steps
        self._seed = seed
        steps_per_epoch = len(self._lengths) // examples_per_step
        self._window_steps = min(_WINDOW_STEPS, max(1, steps_per_epoch // _WINDOWS_PER_EPOCH))
        self._window: tuple[int, NDArray[np.int64]] | None = None

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the indices of a step's examples, sorted by `group_by_image`: [examples_per_step].

        Raises:
            IndexError: The step is not in [0, n_steps).
        """
        if not 0 <= step < self.n_steps:
            raise IndexError(f"Step {step} is not in [0, {self.n_steps}).")
        window, offset = divmod(step, self._window_steps)
        if self._window is None or self._window[0] != window:
            self._window = (window, self._sorted_window(window))
        steps: NDArray[np.int64] = self._window[1][offset]
        return steps

    def _sorted_window(self, window: int) -> NDArray[np.int64]:
        size = self.examples_per_step
        first = window * self._window_steps
        n_steps = min(self._window_steps, self.n_steps - first)
        indices = self._stream(first * size, (first + n_steps) * size)
        order = group_by_image(self._lengths[indices], self._groups[indices])
        steps = indices[order].reshape(n_steps, size)  # [steps, examples_per_step]
        permutation = np.random.default_rng([self._seed, 1, window]).permutation(n_steps)
        shuffled: NDArray[np.int64] = steps[permutation]
        return shuffled

    def _stream(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the example indices at positions `start` to `stop` of the stream of epochs."""
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


def group_by_image(lengths: ArrayLike, image_groups: ArrayLike) -> NDArray[np.int64]:
    """Sort examples so that those of one image are adjacent, and images by prompt length.

    The prefix that prompts of one image share can then be computed once (`prefix_sharing.py`), and
    batches have little padding.

    Args:
        lengths: Length of each example: [n].
        image_groups: Group number of each example, equal for equal images: [n].

    Returns:
        Indices of the examples, images of short prompts first: [n].
    """
    lengths = np.asarray(lengths)
    groups = np.unique(image_groups, return_inverse=True)[1]
    means = np.bincount(groups, weights=lengths) / np.bincount(groups)
    return np.lexsort((lengths, groups, means[groups]))


def count_steps(
    n_examples: int, *, examples_per_step: int, epochs: float, max_steps: int | None
) -> int:
    """Return the number of optimizer steps of a training run, at least one.

    Args:
        n_examples: Training examples.
        examples_per_step: Examples per step.
        epochs: Passes over the examples; fractions are allowed.
        max_steps: Upper bound, `None` for none.
    """
    steps = max(1, math.ceil(n_examples * epochs / examples_per_step))
    return steps if max_steps is None else min(steps, max_steps)


def learning_rate_factor(
    step: int, *, n_steps: int, warmup: float, scheduler: LearningRateScheduler
) -> float:
    """Return the factor of the learning rate at a step, in [0, 1].

    Args:
        step: Steps done so far.
        n_steps: Number of steps.
        warmup: Fraction of the steps over which the rate rises linearly, in [0, 1).
        scheduler: What follows the warm-up: "cosine" falls to zero, "constant" stays at one.
    """
    warmup_steps = math.ceil(n_steps * warmup)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if scheduler == "constant":
        return 1.0
    fraction = min((step - warmup_steps) / max(1, n_steps - warmup_steps), 1.0)
    return 0.5 * (1.0 + math.cos(math.pi * fraction))
