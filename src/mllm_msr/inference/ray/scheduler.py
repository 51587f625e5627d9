"""Assignment of prompts to workers, independent of Ray.

A prompt is assigned to a worker, answered once, or assigned again if its worker died. A prompt
that repeatedly kills its worker is abandoned, so that a single row cannot stop a run.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from mllm_msr.types import Prompt


class Scheduler:
    """Scheduler of prompt batches; tracks which prompts each worker has not answered.

    Args:
        prompts: Any number of prompts; read one batch ahead.
        batch_size: Maximum number of prompts in a batch.
        max_deaths: A prompt is abandoned after this many workers have died while it was the only
            prompt of their batch.
    """

    def __init__(self, prompts: Iterable[Prompt], *, batch_size: int, max_deaths: int) -> None:
        self._source: Final = enumerate(prompts)
        self._batch_size = batch_size
        self._max_deaths = max_deaths
        self._next: dict[int, Prompt] = {}
        self._retries: deque[tuple[int, Prompt]] = deque()
        self._deaths: Counter[int] = Counter()
        self._batches: dict[int, list[int]] = {}  # indices of each worker's batch
        self._pending: dict[int, dict[int, Prompt]] = {}  # unanswered prompts of each worker

    @property
    def done(self) -> bool:
        """Return whether no prompt is waiting or assigned."""
        self._read_ahead()
        return not (self._pending or self._retries or self._next)

    def next_batch(self, worker: int) -> list[Prompt]:
        """Assign the next prompts to an idle worker; empty if none are waiting.

        Prompts whose worker died are assigned one at a time, so that the one that causes the
        deaths does not affect others.
        """
        self._read_ahead()
        if self._retries:
            batch = dict([self._retries.popleft()])
        else:
            batch, self._next = self._next, {}
        if batch:
            self._batches[worker] = list(batch)
            self._pending[worker] = batch
        return list(batch.values())

    def complete(self, worker: int, position: int) -> int:
        """Record a response.

        Args:
            worker: The worker that answered.
            position: Position of the prompt in the worker's batch.

        Returns:
            The prompt's index.
        """
        index = self._batches[worker][position]
        del self._pending[worker][index]
        return index

    def finish_batch(self, worker: int) -> None:
        """Record that a worker has finished its batch."""
        del self._pending[worker], self._batches[worker]

    def record_death(self, worker: int) -> list[int]:
        """Record the death of a worker and queue its unanswered prompts again.

        Returns:
            Indices of the prompts that are abandoned instead.
        """
        unanswered = self._pending.pop(worker, {})
        alone = len(self._batches.pop(worker, ())) == 1
        abandoned = []
        for index, prompt in unanswered.items():
            self._deaths[index] += alone
            if self._deaths[index] >= self._max_deaths:
                abandoned.append(index)
            else:
                self._retries.append((index, prompt))
        return abandoned

    def _read_ahead(self) -> None:
        if not self._next:
            self._next = dict(itertools.islice(self._source, self._batch_size))
