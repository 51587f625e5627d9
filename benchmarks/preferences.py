"""Preferences from histories of twelve items, in blocks of three: users per second."""

from __future__ import annotations

from typing import Any

import polars as pl

from benchmarks._bench import Bench, set_up, settings_of
from benchmarks._jobs import NOUN
from benchmarks._measure import apart, growth_of
from benchmarks._writing import compare, grown
from mllm_msr.interfaces import Backend
from mllm_msr.summarization.preferences import infer_preferences


def run(
    *,
    shapes: str = "demo",
    users: int = 64,
    items: int = 60,
    device: str = "cpu",
    dtype: str = "auto",
    threads: int = 1,
    batch_size: int = 64,
    repeats: int = 5,
    released_users: int = 4,
    strong_users: int = 64,
    new_tokens: int = 0,
    vllm: int = 1,
    growth: int = 16,
) -> dict[str, Any]:
    """Compare ways to infer preferences.

    Args:
        shapes: "demo" (the packaged model), "middle" (134 million random weights), "7b"
            (LLaVA-v1.6-mistral's, for a GPU) or "tiny".
        users: Users that our way handles.
        items: Size of the catalogue.
        device: A torch device.
        dtype: "float32", "bfloat16", or "auto" for float32 on a CPU and bfloat16 elsewhere.
        threads: Threads on a CPU.
        batch_size: Prompts in a batch, of our way and of the strong one.
        repeats: Rounds in which all ways run in turn.
        released_users: Users that the released way handles.
        strong_users: Users that the strong way handles.
        new_tokens: Bound of every answer, 0 for the stage's own; random weights write so many.
        vllm: 1 to let vLLM's server handle all users too where `make vllm` has made it, 0 not to.
        growth: Times the work, for time and memory; 0 to leave it out.

    Returns:
        Settings, `ratios` of rates, agreement of the answers, growth.
    """
    few = max(users // 4, 1)
    with set_up(
        shapes,
        n_items=items,
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
                column="preference",
                units=(released_users, strong_users, users),
                at_once=1,
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
    return infer_preferences(
        bench.work.histories(n), bench.work.summaries(), backend, item_type=NOUN
    )
