"""Common code of the benchmarks of text generation: each implementation runs a pipeline stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, final

import polars as pl
import torch

from benchmarks._measure import (
    OURS,
    Implementation,
    growth_between,
    in_new_process,
    peak_gb,
    run_in_turn,
    seconds_used,
)
from benchmarks._setup import Cost, Setup
from benchmarks._vllm_baseline import NAME as VLLM
from benchmarks._vllm_baseline import start_vllm
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt

# A stage on a number of units of work: (setup, backend, number of units) -> output table.
Stage = Callable[[Setup, Backend, int], pl.DataFrame]


@final
class CountingBackend(Backend):
    """Backend wrapper that counts tokens and images.

    Args:
        backend: The wrapped backend.
        new_tokens: Token limit of every answer; 0 keeps the limit of the stage.

    Attributes:
        prompt_tokens: Number of prompt tokens so far.
        output_tokens: Number of output tokens so far.
        images: Number of images in prompts so far.
    """

    def __init__(self, backend: Backend, *, new_tokens: int = 0) -> None:
        self._backend = backend
        self._new_tokens = new_tokens
        self.prompt_tokens = self.output_tokens = self.images = 0

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the wrapped backend."""
        return self._backend.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """Return the capabilities of the wrapped backend."""
        return self._backend.capabilities

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Generate answers and count tokens and images."""
        for index, answer in self._backend.generate(map(self._count_images, prompts)):
            self.prompt_tokens += answer.prompt_tokens
            self.output_tokens += answer.output_tokens
            yield index, answer

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Score prompts; tokens are not counted."""
        return self._backend.score(prompts, choices)

    def close(self) -> None:
        """Close the wrapped backend."""
        self._backend.close()

    def _count_images(self, prompt: Prompt) -> Prompt:
        """Count the images of a prompt and return the prompt with the token limit."""
        self.images += len(prompt.images)
        if not self._new_tokens:
            return prompt
        return replace(prompt, max_new_tokens=self._new_tokens)


def compare(
    setup: Setup,
    stage: Stage,
    *,
    column: str,
    units: tuple[int, int, int],
    generation_batch: int,
    new_tokens: int,
    repeats: int,
    vllm: bool,
    growth: tuple[int, int] | None,
) -> dict[str, Any]:
    """Run a stage alternately with the released, the strong, vLLM's and our implementation.

    Args:
        setup: Model and catalog.
        stage: The stage.
        column: Column of its table in which the implementations should agree.
        units: Units of work of the released, the strong and our implementation.
        generation_batch: Number of prompts per batch of the released implementation.
        new_tokens: Token limit of every answer; 0 keeps the limit of the stage.
        repeats: Number of repeats.
        vllm: Whether to measure vLLM's server, with as many units as our implementation.
        growth: Two numbers of units between which the growth of our implementation is measured.

    Returns:
        Settings, rates, agreement of the answers and, if requested, growth.
    """
    loaded = setup.load()
    own = setup.ours()
    work = _Work(setup, stage, column, new_tokens)
    implementations: dict[str, Implementation] = {}
    baselines = setup.baselines(loaded, generation_batch=generation_batch)
    for name, backend, n in zip(("released", "strong"), baselines, units[:2], strict=True):
        implementations[name] = Implementation(work.on(name, backend, n)[1], n)
    # Caches are cleared before each repeat, so that earlier answers do not serve as drafts.
    ours, run_ours = work.on(OURS, own, units[-1], own.clear_caches)
    implementations[OURS] = Implementation(run_ours, units[-1])
    ours.prompt_tokens = ours.output_tokens = ours.images = 0
    run_ours()
    result: dict[str, Any] = {
        "tokens_read": ours.prompt_tokens,
        "tokens_written": ours.output_tokens,
    }
    flops = _count_operations(ours, Cost.measure(setup, loaded))
    with start_vllm(setup, result, wanted=vllm) as baseline:
        if baseline is not None:
            _, run_vllm = work.on(VLLM, baseline.backend, units[-1])
            implementations[VLLM] = baseline.implementation(run_vllm, units[-1])
        result |= run_in_turn(
            implementations, repeats=repeats, device=setup.device, dtype=setup.dtype, flops=flops
        )
        result["share_of_equal_answers"] = work.equal_share("strong", OURS)
        if baseline is not None:
            result["vllm_seconds"] = baseline.seconds()
            result["share_of_answers_equal_to_vllm"] = work.equal_share(VLLM, OURS)
    ours.close()
    if growth is not None:
        measured = (
            in_new_process(_measure_ours, setup, stage, n, new_tokens=new_tokens) for n in growth
        )
        result["growth"] = growth_between(*measured)
    return {**setup.describe(), "new_tokens": new_tokens, **result}


class _Work:
    """A stage that several backends run, and the texts that they generated.

    Args:
        setup: Model and catalog.
        stage: The stage.
        column: Column of its table with the texts.
        new_tokens: Token limit of every answer; 0 keeps the limit of the stage.
    """

    def __init__(self, setup: Setup, stage: Stage, column: str, new_tokens: int) -> None:
        self._setup = setup
        self._stage = stage
        self._column = column
        self._new_tokens = new_tokens
        self._texts: dict[str, pl.Series] = {}

    def on(
        self, name: str, backend: Backend, n: int, reset: Callable[[], None] = lambda: None
    ) -> tuple[CountingBackend, Callable[[], int]]:
        """Warm up a backend, and return its counters and a function that runs the stage.

        Args:
            name: Name of the implementation.
            backend: Backend of the implementation.
            n: Number of units of work.
            reset: Called before each run.

        Returns:
            The wrapped backend, and a function that runs the stage and returns the number of
            prompt and output tokens.
        """
        counting = CountingBackend(backend, new_tokens=self._new_tokens)

        def run() -> int:
            before = counting.prompt_tokens + counting.output_tokens
            reset()
            self._texts[name] = self._stage(self._setup, counting, n)[self._column]
            return counting.prompt_tokens + counting.output_tokens - before

        self._stage(self._setup, counting, 1)
        return counting, run

    def equal_share(self, name: str, other: str) -> float:
        """Return the share of equal texts among the units that both implementations processed."""
        pairs = zip(self._texts[name], self._texts[other], strict=False)
        return round(fmean(a == b for a, b in pairs), 3)


def _count_operations(counts: CountingBackend, cost: Cost) -> float:
    tokens = counts.prompt_tokens + counts.output_tokens
    return tokens * cost.token + counts.output_tokens * cost.output + counts.images * cost.image


def _measure_ours(setup: Setup, stage: Stage, n: int, *, new_tokens: int) -> dict[str, float]:
    """Measure time and memory of our implementation; called in a new process."""
    torch.set_num_threads(setup.threads)
    backend = CountingBackend(setup.ours(), new_tokens=new_tokens)
    stage(setup, backend, 1)  # warm-up
    start = seconds_used(setup.device)
    stage(setup, backend, n)
    seconds = seconds_used(setup.device) - start
    return {"units": n, "seconds": seconds, "peak_gb": peak_gb(setup.device)}
