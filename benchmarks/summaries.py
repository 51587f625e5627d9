"""Item summaries from text and image: items per second against three baselines."""

from __future__ import annotations

from typing import Any

import polars as pl

from benchmarks._bench import Bench, set_up, settings_of
from benchmarks._jobs import NOUN
from benchmarks._measure import apart, growth_of
from benchmarks._writing import compare, grown
from mllm_msr.interfaces import Backend
from mllm_msr.summarization.items import summarize


def run(
    *,
    shapes: str = "demo",
    items: int = 64,
    device: str = "cpu",
    dtype: str = "auto",
    threads: int = 1,
    batch_size: int = 64,
    repeats: int = 5,
    released_items: int = 6,
    strong_items: int = 64,
    new_tokens: int = 0,
    vllm: int = 1,
    growth: int = 16,
) -> dict[str, Any]:
    """Compare ways to summarise items.

    Args:
        shapes: "demo" (the packaged model), "middle" (134 million random weights), "7b"
            (LLaVA-v1.6-mistral's, for a GPU) or "tiny".
        items: Items that our way summarises, three prompts each.
        device: A torch device.
        dtype: "float32", "bfloat16", or "auto" for float32 on a CPU and bfloat16 elsewhere.
        threads: Threads on a CPU.
        batch_size: Prompts in a batch, of our way and of the strong one.
        repeats: Rounds in which all ways run in turn.
        released_items: Items that the released way handles.
        strong_items: Items that the strong way handles.
        new_tokens: Bound of every answer, 0 for the stage's own; random weights write so many.
        vllm: 1 to let vLLM's server handle all items too where `make vllm` has made it, 0 not to.
        growth: Times the work, for time and memory; 0 to leave it out.

    Returns:
        Settings, `ratios` of rates, agreement of the answers, growth.
    """
    few = max(items // 4, 1)
    with set_up(
        shapes,
        n_items=max(items, growth * few),
        device=device,
        dtype=dtype,
        threads=threads,
        batch_size=batch_size,
    ) as bench:
        result = {
            **settings_of(bench),
            "new_tokens": new_tokens,
            **compare(
                bench,
                _stage,
                column="summary",
                units=(released_items, strong_items, items),
                at_once=6,
                new_tokens=new_tokens,
                repeats=repeats,
                vllm=bool(vllm),
            ),
        }
        if growth:
            sizes = (few, growth * few)
            measured = (apart(grown, bench, _stage, n, new_tokens=new_tokens) for n in sizes)
            result["growth"] = growth_of(*measured)
    return result


def _stage(bench: Bench, backend: Backend, n: int) -> pl.DataFrame:
    return summarize(bench.work.items[:n], backend, item_type=NOUN)
