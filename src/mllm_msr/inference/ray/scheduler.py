"""Which prompts are out with which worker: the half of an executor that knows no cluster.

A prompt is handed out, answered once, or handed out again because its worker died. One over which
workers die again and again is given up, so that a single row cannot stop a run.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from mllm_msr.types import Prompt


class Scheduler:
    """Prompts on their way through workers.

    Args:
        prompts: Any number of prompts; read a batch ahead of what is handed out.
        size: Most prompts in a batch.
        lives: Workers that may die over a prompt asked alone before it is given up.
    """

    def __init__(self, prompts: Iterable[Prompt], *, size: int, lives: int) -> None:
        self._source: Final = enumerate(prompts)
        self._size = size
        self._lives = lives
        self._next: dict[int, Prompt] = {}
        self._suspects: deque[tuple[int, Prompt]] = deque()
        self._deaths: Counter[int] = Counter()
        self._asked: dict[int, list[int]] = {}
        self._out: dict[int, dict[int, Prompt]] = {}

    @property
    def done(self) -> bool:
        """Whether no prompt is out or waits."""
        self._read_ahead()
        return not (self._out or self._suspects or self._next)

    def take(self, worker: int) -> list[Prompt]:
        """The next prompts for a worker that has none; empty where none wait.

        Prompts whose worker died come alone, so that the one at fault takes no other with it.
        """
        self._read_ahead()
        if self._suspects:
            batch = dict([self._suspects.popleft()])
        else:
            batch, self._next = self._next, {}
        if batch:
            self._asked[worker] = list(batch)
            self._out[worker] = batch
        return list(batch.values())

    def settle(self, worker: int, place: int) -> int:
        """Note an answer.

        Args:
            worker: Whose it is.
            place: Place of the prompt in the worker's batch.

        Returns:
            The prompt's index.
        """
        index = self._asked[worker][place]
        del self._out[worker][index]
        return index

    def finish(self, worker: int) -> None:
        """Note that a worker has ended its batch."""
        del self._out[worker], self._asked[worker]

    def bury(self, worker: int) -> list[int]:
        """Note a worker's death: what it had not answered will be asked again.

        Returns:
            Indices of prompts that are given up instead.
        """
        lost = self._out.pop(worker, {})
        alone = len(self._asked.pop(worker, ())) == 1
        given_up = []
        for index, prompt in lost.items():
            self._deaths[index] += alone
            if self._deaths[index] >= self._lives:
                given_up.append(index)
            else:
                self._suspects.append((index, prompt))
        return given_up

    def _read_ahead(self) -> None:
        if not self._next:
            self._next = dict(itertools.islice(self._source, self._size))
