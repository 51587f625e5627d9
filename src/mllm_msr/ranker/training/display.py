"""Display of the progress of training: optimizer steps of the ranker, epochs of a baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable


class TrainingProgress(Protocol):
    """Display of the progress of a training, or of a named part of it such as a validation."""

    def __call__(
        self, n_steps: int, n_done: int, part: str = ""
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Return a context manager whose value is called with 1 after each further step.

        Args:
            n_steps: Number of steps.
            n_done: Number of steps that an earlier process has done.
            part: Name of the part; empty for the training itself.
        """


@contextmanager
def hide_progress(n_steps: int, n_done: int, part: str = "") -> Iterator[Callable[[int], None]]:
    """Show nothing: the default `TrainingProgress`."""
    del n_steps, n_done, part
    yield lambda _: None


@runtime_checkable
class ShowsTraining(Protocol):
    """A recommender whose `fit` shows its progress; optional for baselines.

    Attributes:
        training_progress: Display of the steps or epochs; set before `fit`.
    """

    training_progress: TrainingProgress
