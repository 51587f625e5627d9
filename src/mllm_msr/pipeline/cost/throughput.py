"""Tokens per second of a model: given by the settings, or measured in the pilot of a plan."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from mllm_msr.inference.cached import CachedBackend
from mllm_msr.pipeline.cost.token_counter import CountingBackend


@dataclass(frozen=True, slots=True)
class Rates:
    """Input and output tokens per second; None if unknown."""

    prompt: float | None
    output: float | None

    def seconds(self, n_prompt: float, n_output: float) -> float | None:
        """Return the duration of some input and output tokens; None without a rate."""
        if self.prompt is None or (self.output is None and n_output):
            return None
        return n_prompt / self.prompt + (n_output / self.output if self.output else 0.0)


class Throughput:
    """Measurement of the tokens per second of a backend."""

    def __init__(self) -> None:
        self._seconds = self._n_prompt = self._n_output = 0.0

    @contextlib.contextmanager
    def measure(self, counting: CountingBackend, backend: CachedBackend) -> Iterator[None]:
        """Measure the block, unless the cache answered more than half of its prompts."""
        start, n_before, hits = time.perf_counter(), len(counting.calls), backend.hits
        yield
        calls = counting.calls[n_before:]
        if backend.hits - hits <= len(calls) // 2:
            self._seconds += time.perf_counter() - start
            self._n_prompt += sum(call.prompt.n_tokens for call in calls)
            self._n_output += sum(call.n_output for call in calls)

    def prompt_rate(self) -> float | None:
        """Return input tokens per second."""
        return self._n_prompt / self._seconds if self._seconds else None

    def output_rate(self, prompt_rate: float | None) -> float | None:
        """Return output tokens per second, after subtracting the time for the input."""
        if prompt_rate is None or not self._seconds:
            return None
        seconds = self._seconds - self._n_prompt / prompt_rate
        return self._n_output / max(seconds, 0.1 * self._seconds)
