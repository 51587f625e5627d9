"""Item summaries from text and image: items per second, compared with three baselines."""

from __future__ import annotations

from typing import Any

import polars as pl

from benchmarks._generation import compare
from benchmarks._setup import Setup, open_setup
from benchmarks._workload import ITEM_TYPE
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
    """Compare implementations of item summarization.

    Args:
        shapes: "demo" (the demo model), "smollm" (the pretrained model of the extra `small`), or
            random weights: "middle" (134 million), "7b" (shapes of LLaVA-v1.6-mistral, for a GPU),
            "smolvlm2-256m", "smolvlm2-500m", "qwen3-vl-2b", "tiny" or "qwen3-vl-tiny".
        items: Number of items of our implementation, with three prompts each.
        device: A torch device.
        dtype: "float32", "bfloat16", or "auto" for float32 on a CPU and bfloat16 elsewhere.
        threads: Number of threads on a CPU.
        batch_size: Batch size of our implementation and of the strong one.
        repeats: Number of repeats; each runs all implementations alternately.
        released_items: Number of items of the released implementation.
        strong_items: Number of items of the strong implementation.
        new_tokens: Token limit of every answer, which random weights always reach; 0 keeps the
            limit of the stage.
        vllm: 1 to also measure vLLM's server if `make vllm` has installed it, 0 to omit it.
        growth: Factor of the work for the growth of time and memory; 0 to omit the measurement.

    Returns:
        Settings, `ratios` of rates, agreement of the answers, and growth.
    """
    few = max(items // 4, 1)
    with open_setup(
        shapes,
        n_items=max(items, growth * few),
        device=device,
        dtype=dtype,
        threads=threads,
        batch_size=batch_size,
    ) as setup:
        return compare(
            setup,
            _summarize,
            column="summary",
            units=(released_items, strong_items, items),
            generation_batch=6,
            new_tokens=new_tokens,
            repeats=repeats,
            vllm=bool(vllm),
            growth=(few, growth * few) if growth else None,
        )


def _summarize(setup: Setup, backend: Backend, n: int) -> pl.DataFrame:
    return summarize(setup.workload.items[:n], backend, item_type=ITEM_TYPE)
