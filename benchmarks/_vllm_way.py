"""vLLM's server as one more way in the benchmarks of speed, where its environment is there."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks._bench import Bench
from benchmarks._measure import TreeClock, Way
from benchmarks._vllm import Server, serving
from benchmarks._vllm_checkpoint import readable
from mllm_msr.errors import UsageError
from mllm_msr.interfaces import Backend

NAME: Final = "vllm"


class Baseline:
    """A server with the bench's checkpoint, asked through the backend `openai`.

    Before each repeat it forgets what it has read: the work is new to all ways.

    Args:
        server: It.
        clients: Prompts that it computes together.

    Attributes:
        backend: Asks it.
    """

    def __init__(self, server: Server, *, clients: int) -> None:
        self._server = server
        self._clock = TreeClock()
        self.backend: Backend = server.backend(clients=clients)

    def way(self, work: Callable[[], int], units: int) -> Way:
        """Work that asks the server, timed in the manner that is kindest to it.

        Args:
            work: Does it with `backend`; returns its tokens.
            units: Of work.
        """

        def run() -> int:
            self._server.forget()
            with self._clock.running():
                return work()

        return Way(run, units, clock=self._clock)

    def seconds(self) -> dict[str, list[float]]:
        """Of each repeat: of all processors, and on the clock."""
        kinds = {"processor": self._clock.processor, "elapsed": self._clock.elapsed}
        return {kind: [round(value, 2) for value in values] for kind, values in kinds.items()}


@contextlib.contextmanager
def baseline(bench: Bench, result: dict[str, Any], *, wanted: bool) -> Iterator[Baseline | None]:
    """Serve a bench's checkpoint for the time of a block.

    Args:
        bench: What it is.
        result: Gets a sentence ("missing") where there is no such server.
        wanted: Whether it is to be measured at all.

    Yields:
        The baseline, or none.
    """
    with contextlib.ExitStack() as stack:
        found = None
        try:
            found = _started(bench, stack) if wanted else None
        except UsageError as error:
            result["missing"] = {NAME: str(error)}
        yield found


def _started(bench: Bench, stack: contextlib.ExitStack) -> Baseline:
    if bench.device != "cpu":
        raise UsageError(
            needed="a model on the CPU, for which vLLM is built here",
            received=bench.device,
            remedy="measure vLLM on a GPU by itself",
        )
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    checkpoint = readable(Path(bench.checkpoint), folder / "checkpoint")
    server = stack.enter_context(
        serving(checkpoint, threads=bench.threads, dtype=bench.dtype, clients=bench.batch_size)
    )
    made = Baseline(server, clients=bench.batch_size)
    stack.callback(made.backend.close)
    return made
