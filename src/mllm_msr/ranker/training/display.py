"""Display of the progress of training: optimizer steps of the ranker, epochs of a baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

# Shows progress. Called with the number of steps and the number already done, it returns a context
# manager whose value is called with 1 after each further step.
TrainingProgress = Callable[[int, int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def hide_progress(n_steps: int, n_done: int) -> Iterator[Callable[[int], None]]:
    """Show nothing: the default `TrainingProgress`."""
    del n_steps, n_done
    yield lambda _: None


@runtime_checkable
class ShowsTraining(Protocol):
    """A recommender whose `fit` shows its progress; optional for baselines.

    Attributes:
        training_progress: Display of the steps or epochs; set before `fit`.
    """

    training_progress: TrainingProgress
