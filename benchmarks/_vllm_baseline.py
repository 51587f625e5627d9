"""Baseline "vllm" of the speed benchmarks; measured if vLLM's environment exists."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks._measure import Implementation, ProcessTreeClock
from benchmarks._setup import Setup
from benchmarks._vllm import Server, find_program, serve
from benchmarks._vllm_checkpoint import convert_checkpoint
from mllm_msr.errors import UsageError
from mllm_msr.interfaces import Backend

NAME: Final = "vllm"


class VllmBaseline:
    """A vLLM server with the setup's checkpoint, called through the backend `openai`.

    Its caches are reset before each repeat, because no implementation keeps results of earlier
    repeats.

    Args:
        server: The server.
        clients: Maximum number of prompts in a batch.

    Attributes:
        backend: Backend that calls the server.
    """

    def __init__(self, server: Server, *, clients: int) -> None:
        self._server = server
        self._clock = ProcessTreeClock()
        self.backend: Backend = server.backend(clients=clients)

    def implementation(self, work: Callable[[], int], units: int) -> Implementation:
        """Return an implementation that resets the caches and is timed by `ProcessTreeClock`.

        Args:
            work: Does the work with `backend` and returns the number of tokens.
            units: Number of units of work.
        """

        def run() -> int:
            self._server.reset_caches()
            with self._clock.running():
                return work()

        return Implementation(run, units, clock=self._clock)

    def seconds(self) -> dict[str, list[float]]:
        """Return the processor and the elapsed seconds of each repeat."""
        kinds = {"processor": self._clock.processor, "elapsed": self._clock.elapsed}
        return {kind: [round(value, 2) for value in values] for kind, values in kinds.items()}


@contextlib.contextmanager
def start_vllm(
    setup: Setup, result: dict[str, Any], *, wanted: bool
) -> Iterator[VllmBaseline | None]:
    """Serve the checkpoint of a setup with vLLM for the duration of a `with` block.

    Args:
        setup: The setup.
        result: Result to which the reason is added as "missing" if vLLM cannot be used.
        wanted: Whether to measure vLLM.

    Yields:
        The baseline; None if vLLM is not measured.
    """
    with contextlib.ExitStack() as stack:
        found = None
        try:
            found = _start(setup, stack) if wanted else None
        except UsageError as error:
            result["missing"] = {NAME: str(error)}
        yield found


def _start(setup: Setup, stack: contextlib.ExitStack) -> VllmBaseline:
    find_program(setup.device)  # before the checkpoint is copied
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    checkpoint = convert_checkpoint(Path(setup.checkpoint), folder / "checkpoint")
    server = stack.enter_context(
        serve(
            checkpoint,
            threads=setup.threads,
            dtype=setup.dtype,
            device=setup.device,
            clients=setup.batch_size,
        )
    )
    baseline = VllmBaseline(server, clients=setup.batch_size)
    stack.callback(baseline.backend.close)
    return baseline
