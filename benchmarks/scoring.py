"""Scoring 1:20 candidate lists with images: pairs per second against three baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks._bench import CHOICES, Bench, Cost, set_up, settings_of, unique_tokens
from benchmarks._jobs import CANDIDATES
from benchmarks._measure import OURS, Way, alternate, apart, growth_of, now, peak_gb
from benchmarks._vllm_way import NAME as VLLM
from benchmarks._vllm_way import baseline
from mllm_msr.interfaces import Backend
from mllm_msr.models.inputs import Renderer
from mllm_msr.ranker.examples import Example
from mllm_msr.ranker.scoring import score_examples


def run(
    *,
    shapes: str = "demo",
    users: int = 20,
    items: int = 30,
    device: str = "cpu",
    dtype: str = "auto",
    threads: int = 1,
    batch_size: int = 64,
    repeats: int = 5,
    released_pairs: int = 18,
    strong_pairs: int = 192,
    vllm: int = 1,
    growth: int = 16,
) -> dict[str, Any]:
    """Compare ways to score.

    Args:
        shapes: "demo" (the packaged model), "middle" (134 million random weights), "7b"
            (LLaVA-v1.6-mistral's, for a GPU) or "tiny".
        users: Users, each with 21 candidates; our way scores them all.
        items: Size of the catalogue. Pairs per item decide what sharing saves.
        device: A torch device.
        dtype: "float32", "bfloat16", or "auto" for float32 on a CPU and bfloat16 elsewhere.
        threads: Threads on a CPU.
        batch_size: Prompts in a batch, of our way and of the strong one.
        repeats: Rounds in which all ways run in turn.
        released_pairs: Pairs that the released way scores.
        strong_pairs: Pairs that the strong way scores.
        vllm: 1 to let vLLM's server score all pairs too where `make vllm` has made it, 0 not to.
        growth: Times the work, for time and memory; 0 to leave it out.

    Returns:
        Settings, `ratios` of rates, agreement of the results, growth.
    """
    with set_up(
        shapes, n_items=items, device=device, dtype=dtype, threads=threads, batch_size=batch_size
    ) as bench:
        result = {
            **settings_of(bench),
            "pairs_per_item": round(users * CANDIDATES / items, 1),
            **_compare(
                bench,
                bench.work.candidate_lists(users),
                repeats=repeats,
                released_pairs=released_pairs,
                strong_pairs=strong_pairs,
                vllm=bool(vllm),
            ),
        }
        if growth:
            few = max(users // 4, 1)
            result["growth"] = growth_of(*(apart(_grown, bench, n) for n in (few, growth * few)))
    return result


def _compare(
    bench: Bench,
    examples: list[Example],
    *,
    repeats: int,
    released_pairs: int,
    strong_pairs: int,
    vllm: bool,
) -> dict[str, Any]:
    loaded = bench.load()
    released, strong = bench.baselines(loaded)
    ours = bench.ours()
    renderer = Renderer(loaded.processor, supports_images=True)
    rendered = [renderer.render(example.prompt) for example in examples]
    n_unique, n_images = unique_tokens(rendered)
    cost = Cost.of(bench, loaded)
    part = examples[:strong_pairs]
    ways = {
        "released": Way(_work(released, examples[:released_pairs]), released_pairs),
        "strong": Way(_work(strong, part), len(part)),
        OURS: Way(_work(ours, examples), len(examples)),
    }
    result: dict[str, Any] = {
        "prompt_tokens": sum(len(one.input_ids) for one in rendered),
        "image_tokens": cost.image_tokens,
        "unique_tokens": n_unique,
        "largest_difference": _difference(strong, ours, part),
    }
    with baseline(bench, result, wanted=vllm) as third:
        if third is not None:
            result["largest_difference_to_vllm"] = _difference(third.backend, ours, part)
            ways[VLLM] = third.way(_work(third.backend, examples), len(examples))
        result |= alternate(
            ways,
            repeats=repeats,
            device=bench.device,
            dtype=bench.dtype,
            flops=n_unique * cost.token + n_images * cost.image,
        )
        if third is not None:
            result["vllm_seconds"] = third.seconds()
    ours.close()
    return result


def _work(backend: Backend, examples: list[Example]) -> Callable[[], int]:
    def work() -> int:
        _, counts = score_examples(examples, backend, choices=CHOICES)
        return counts.prompt_tokens

    return work


def _difference(one: Backend, other: Backend, examples: list[Example]) -> float:
    """Largest difference of two ways' log-probabilities; both are warm afterwards."""
    prompts = [example.prompt for example in examples]
    first, second = (dict(way.score(prompts, CHOICES)) for way in (one, other))
    return max(
        abs(a - b)
        for index in first
        for a, b in zip(first[index].log_probs, second[index].log_probs, strict=True)
    )


def _grown(bench: Bench, users: int) -> dict[str, float]:
    """Our way's time and memory for so many users, in a process of its own."""
    torch.set_num_threads(bench.threads)
    examples = bench.work.candidate_lists(users)
    backend = bench.ours()
    list(backend.score([examples[0].prompt], CHOICES))
    start = now(bench.device)
    score_examples(examples, backend, choices=CHOICES)
    seconds = now(bench.device) - start
    return {"units": len(examples), "seconds": seconds, "peak_gb": peak_gb(bench.device)}
