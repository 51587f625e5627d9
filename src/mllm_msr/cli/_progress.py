"""Progress of a command: bars on a terminal, otherwise a line every 30 seconds.

`ProgressReporter` is the `Progress` of the pipeline. The lines also go to `run.log`, see
`_logging.py`, so that the progress of a run in another terminal can be read there.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, final

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

logger = logging.getLogger(__name__)

_INTERVAL: Final = 30.0  # seconds between two lines
_MIN_STEPS: Final = 3  # steps that a rate is measured over


@dataclass(slots=True)
class Task:
    """Task in progress.

    Attributes:
        name: Name of the task.
        total: Number of steps; None if unknown.
        n_done: Number of finished steps, including those of an earlier process.
        started: Time of the start, in seconds of `time.monotonic`.
        bar: Id of the bar, if it has one.
    """

    name: str
    total: int | None
    n_done: int = 0
    started: float = field(default_factory=time.monotonic)
    bar: TaskID | None = None
    _updated: float = 0.0
    _baseline: tuple[float, int] | None = None

    def advance(self, n: int, now: float) -> None:
        """Count steps that have finished at a time."""
        self.n_done += n
        self._updated = now

    def describe(self, now: float) -> str:
        """Return a line with the count, rate and remaining time at a time.

        The rate is the mean since the first line with finished steps: resumed steps and cached
        responses are counted within seconds. It ends with the last step, because a time without a
        finished step says little about the next ones.

        >>> task = Task("infer", 1518, started=0.0)
        >>> task.advance(480, 20.0)
        >>> task.describe(30.0)
        'infer 480/1518 31% running for 00:30'
        >>> task.advance(800, 60.0)
        >>> task.describe(60.0)
        'infer 1280/1518 84% 20/s ETA 00:12'
        """
        running = f"running for {clock(now - self.started)}"
        if self.total is None:
            return f"{self.name} {running}"
        line = f"{self.name} {self.n_done}/{self.total} {100 * self.n_done // max(self.total, 1)}%"
        if self._baseline is None and self.n_done:
            self._baseline = (self._updated, self.n_done)
        since, before = self._baseline or (now, self.n_done)
        if self.n_done - before < _MIN_STEPS:
            return f"{line} {running}"
        rate = (self.n_done - before) / max(self._updated - since, 1e-6)
        speed = f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
        if rate < 1:
            speed = f"{60 * rate:.1f}/min"
        return f"{line} {speed} ETA {clock((self.total - self.n_done) / rate)}"


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, or hours, minutes and seconds.

    >>> clock(25.4), clock(3661)
    ('00:25', '1:01:01')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


@final
class ProgressReporter:
    """Display of the tasks of a command. Use it in a `with` statement.

    Args:
        bars: Whether to draw bars on stderr.
        interval: Seconds between two lines in the log.
    """

    def __init__(self, *, bars: bool, interval: float = _INTERVAL) -> None:
        self._bars = bars
        self._interval = interval
        self._tasks: list[Task] = []
        self._display: Progress | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._log, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()

    @contextlib.contextmanager
    def __call__(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show a task for the duration of the block.

        Args:
            name: Name of the task.
            total: Number of steps; None if unknown.

        Yields:
            Function to call with the number of steps that have finished since the last call.
        """
        task = Task(name, total)
        self._show(task)
        self._tasks.append(task)

        def advance(n: int) -> None:
            task.advance(n, time.monotonic())
            if self._display is not None and task.bar is not None:
                self._display.update(task.bar, completed=task.n_done)

        try:
            yield advance
        finally:
            self._tasks.remove(task)
            self._hide(task)

    def _show(self, task: Task) -> None:
        """Add the bar of a task and hide that of the task around it."""
        if not self._bars:
            return
        if self._display is None:
            self._display = _make_display()
            self._display.start()
        if self._tasks and self._tasks[-1].bar is not None:
            self._display.update(self._tasks[-1].bar, visible=False)
        task.bar = self._display.add_task(task.name, total=task.total)

    def _hide(self, task: Task) -> None:
        """Remove the bar of a task and show that of the task around it again."""
        if self._display is None or task.bar is None:
            return
        self._display.remove_task(task.bar)
        if self._tasks and self._tasks[-1].bar is not None:
            self._display.update(self._tasks[-1].bar, visible=True)
        if not self._tasks:
            self._display.stop()
            self._display = None

    def _log(self) -> None:
        """Log the innermost task in regular intervals until the end of the command."""
        while not self._stopped.wait(self._interval):
            with contextlib.suppress(IndexError):  # no task, or it has just ended
                logger.info("%s", self._tasks[-1].describe(time.monotonic()))


def _make_display() -> Progress:
    """Return a display of bars with speed and remaining time, which disappear when done."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
