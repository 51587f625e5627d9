"""Examples and learning rate of each optimizer step, as functions of the seed and the step.

A resumed run therefore sees exactly the same examples as an uninterrupted one, and only the product
of batch size and accumulated batches matters.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mllm_msr.config.train_settings import LearningRateScheduler, TrainSettings

logger = logging.getLogger(__name__)

# Steps whose examples are sorted together: enough to fill batches with prompts of similar length,
# but few enough to keep the order random. In short epochs the window is a fraction of the epoch,
# so that a step rarely contains the same example twice.
_WINDOW_STEPS: Final = 16
_WINDOWS_PER_EPOCH: Final = 4
# Steps are full, so that the last one may exceed the requested passes by this factor.
_MAX_ROUNDING: Final = 1.05


class StepSampler:
    """Sampler of the examples of each optimizer step.

    Epochs, each in its own random order, form one stream, from which every step takes the same
    number of examples. Within a window of steps, examples are sorted by `sort_by_group` and the
    steps are shuffled.

    Args:
        lengths: Length of each example, in any unit: [n_examples].
        examples_per_step: Batch size x accumulated batches x devices.
        n_steps: Number of optimizer steps.
        seed: Seed of the order.
        groups: Group number of each example, equal for prompts that begin in the same way:
            [n_examples]; without it, all examples are in one group.
        whole_groups: Whether the random order is one of groups, whose examples stay together.
            Otherwise it is one of examples, and a step contains more of one group only by chance.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        examples_per_step: int,
        *,
        n_steps: int,
        seed: int,
        groups: Sequence[int] | None = None,
        whole_groups: bool = False,
    ) -> None:
        self._lengths = np.asarray(lengths)
        self._groups = np.zeros_like(self._lengths) if groups is None else np.asarray(groups)
        self._whole_groups = whole_groups
        self.examples_per_step = examples_per_step
        self.n_steps = n_steps
        self._seed = seed
        steps_per_epoch = len(self._lengths) // examples_per_step
        self._window_steps = min(_WINDOW_STEPS, max(1, steps_per_epoch // _WINDOWS_PER_EPOCH))
        self._window: tuple[int, NDArray[np.int64]] | None = None

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the indices of a step's examples, sorted by `sort_by_group`: [examples_per_step].

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
        order = sort_by_group(self._lengths[indices], self._groups[indices])
        steps = indices[order].reshape(n_steps, size)  # [steps, examples_per_step]
        permutation = np.random.default_rng([self._seed, 1, window]).permutation(n_steps)
        shuffled: NDArray[np.int64] = steps[permutation]
        return shuffled

    def _stream(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the example indices at positions `start` to `stop` of the stream of epochs."""
        n_examples = len(self._lengths)
        epochs = range(start // n_examples, (stop - 1) // n_examples + 1)
        orders = np.concatenate([self._epoch_order(epoch) for epoch in epochs])
        offset = epochs.start * n_examples
        return orders[start - offset : stop - offset]

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self._seed, 0, epoch])
        if not self._whole_groups:
            return generator.permutation(len(self._lengths))
        names, numbers = np.unique(self._groups, return_inverse=True)
        return np.argsort(generator.permutation(len(names))[numbers], kind="stable")


def sort_by_group(lengths: ArrayLike, groups: ArrayLike) -> NDArray[np.int64]:
    """Sort examples so that those of one group are adjacent, and groups by prompt length.

    The prefix that prompts of a group share can then be computed once (`prefix_sharing.py`), and
    batches have little padding.

    Args:
        lengths: Length of each example: [n].
        groups: Group number of each example: [n].

    Returns:
        Indices of the examples, groups of short prompts first: [n].
    """
    lengths = np.asarray(lengths)
    numbers = np.unique(groups, return_inverse=True)[1]
    means = np.bincount(numbers, weights=lengths) / np.bincount(numbers)
    return np.lexsort((lengths, numbers, means[numbers]))


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Sizes and number of the optimizer steps of a training run.

    Attributes:
        batch_size: Examples per forward pass and device.
        accumulate: Forward passes per step and device.
        examples_per_step: Examples per step on all devices.
        n_steps: Number of steps, at least one.
    """

    batch_size: int
    accumulate: int
    examples_per_step: int
    n_steps: int


def plan_steps(n_examples: int, settings: TrainSettings, *, n_devices: int) -> StepPlan:
    """Return the optimizer steps of a training run.

    A step contains no example twice, and all steps together contain at most 5% more examples than
    `settings.epochs` passes. If steps of the requested size would contain more, they are smaller,
    and a warning is logged.

    Args:
        n_examples: Training examples, at least one.
        settings: Requested batch size, accumulation, epochs and maximum number of steps.
        n_devices: Devices.
    """
    batch_size, accumulate = settings.batch_size, settings.accumulate
    requested = batch_size * accumulate * n_devices
    total = max(1, math.floor(n_examples * settings.epochs))
    size = min(requested, n_examples, total)
    n_steps = math.ceil(total / size)
    if settings.max_steps is not None:
        n_steps = min(n_steps, settings.max_steps)
    if n_steps * size > _MAX_ROUNDING * total:
        size = max(1, total // n_steps)
    if size == requested:
        return StepPlan(batch_size, accumulate, size, n_steps)
    per_device = max(1, size // n_devices)
    # The fewest forward passes whose batches are equal and not larger than requested.
    passes = next(n for n in range(1, per_device + 1) if per_device / n in range(1, batch_size + 1))
    logger.warning(
        "The effective batch has %d examples instead of %d (train.batch_size=%d x "
        "train.accumulate=%d x %d devices), because train.epochs=%g of %d examples are too few for "
        "steps of that size.",
        per_device * n_devices,
        requested,
        batch_size,
        accumulate,
        n_devices,
        settings.epochs,
        n_examples,
    )
    return StepPlan(per_device // passes, passes, per_device * n_devices, n_steps)


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
