"""What the benchmarks of generated text share: a stage of the pipeline run by each way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any, final

import polars as pl
import torch

from benchmarks._bench import Bench, Cost
from benchmarks._measure import OURS, Way, alternate, now, peak_gb
from benchmarks._vllm_way import NAME as VLLM
from benchmarks._vllm_way import baseline
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.types import ChoiceScores, Completion, Prompt

# A stage over some units of work: (bench, backend, number of units) -> its table.
Stage = Callable[[Bench, Backend, int], pl.DataFrame]


@final
class Counted(Backend):
    """A backend whose tokens are counted.

    Args:
        backend: The one that answers.
        new_tokens: Bound put on every answer, 0 to leave it to the stage.

    Attributes:
        read: Tokens of the prompts so far.
        written: Tokens of the answers so far.
        images: Images shown so far.
    """

    def __init__(self, backend: Backend, *, new_tokens: int = 0) -> None:
        self._backend = backend
        self._new_tokens = new_tokens
        self.read = self.written = self.images = 0

    @property
    def fingerprint(self) -> str:
        """The backend's."""
        return self._backend.fingerprint

    @property
    def capabilities(self) -> Capabilities:
        """The backend's."""
        return self._backend.capabilities

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer by the backend."""
        for index, answer in self._backend.generate(map(self._bounded, prompts)):
            self.read += answer.prompt_tokens
            self.written += answer.output_tokens
            yield index, answer

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Score by the backend."""
        return self._backend.score(prompts, choices)

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    def _bounded(self, prompt: Prompt) -> Prompt:
        self.images += len(prompt.images)
        if not self._new_tokens:
            return prompt
        return Prompt(prompt.messages, self._new_tokens, prompt.max_text_tokens)


def compare(
    bench: Bench,
    stage: Stage,
    *,
    column: str,
    units: tuple[int, int, int],
    at_once: int,
    new_tokens: int,
    repeats: int,
    vllm: bool,
) -> dict[str, Any]:
    """Run a stage by the released way, the strong one, vLLM's server and ours in turn.

    Args:
        bench: The model and the catalogue.
        stage: What is done.
        column: Column of its table in which the ways should agree.
        units: Units of work of the released, the strong and our way.
        at_once: Prompts that the released way takes together.
        new_tokens: Bound of every answer, 0 for the stage's own.
        repeats: Rounds.
        vllm: Whether vLLM's server, where it is there, does as much as our way.
    """
    loaded = bench.load()
    own = bench.ours()
    backends = (*bench.baselines(loaded, at_once=at_once), own)
    names = ("released", "strong", OURS)
    texts: dict[str, pl.Series] = {}

    def counted(
        name: str, backend: Backend, n: int, forget: Callable[[], None] = lambda: None
    ) -> tuple[Counted, Callable[[], int]]:
        counting = Counted(backend, new_tokens=new_tokens)

        def work() -> int:
            before = counting.read + counting.written
            forget()
            texts[name] = stage(bench, counting, n)[column]
            return counting.read + counting.written - before

        stage(bench, counting, 1)
        return counting, work

    result: dict[str, Any] = {}
    cost = Cost.of(bench, loaded)
    ways: dict[str, Way] = {}
    for name, backend, n in zip(names, backends, units, strict=True):
        # The work is new to every repeat: what ours wrote before must not help it to guess.
        ours, work = counted(name, backend, n, own.clear_caches if name == OURS else lambda: None)
        ways[name] = Way(work, n)
    ours.read = ours.written = ours.images = 0
    ways[OURS].run()
    read, written, images = ours.read, ours.written, ours.images
    flops = (read + written) * cost.token + written * cost.output + images * cost.image
    with baseline(bench, result, wanted=vllm) as third:
        if third is not None:
            _, work = counted(VLLM, third.backend, units[-1])
            ways[VLLM] = third.way(work, units[-1])
        result |= alternate(
            ways, repeats=repeats, device=bench.device, dtype=bench.dtype, flops=flops
        )
        if third is not None:
            result["vllm_seconds"] = third.seconds()
            result["share_of_answers_equal_to_vllm"] = _equal(texts[VLLM], texts[OURS])
    ours.close()
    return {
        "tokens_read": read,
        "tokens_written": written,
        "share_of_equal_answers": _equal(texts["strong"], texts[OURS]),
        **result,
    }


def _equal(some: pl.Series, others: pl.Series) -> float:
    """Share of answers that are the same, of those that both have."""
    return round(fmean(a == b for a, b in zip(some, others, strict=False)), 3)


def grown(bench: Bench, stage: Stage, n: int, *, new_tokens: int) -> dict[str, float]:
    """Our way's time and memory for so many units, in a process of its own."""
    torch.set_num_threads(bench.threads)
    backend = Counted(bench.ours(), new_tokens=new_tokens)
    stage(bench, backend, 1)
    start = now(bench.device)
    stage(bench, backend, n)
    seconds = now(bench.device) - start
    return {"units": n, "seconds": seconds, "peak_gb": peak_gb(bench.device)}
