"""Scoring of 1:20 candidate lists with images: pairs per second, compared with three baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
from benchmarks._setup import Cost, Setup, open_setup, unique_tokens
from benchmarks._vllm_baseline import NAME as VLLM
from benchmarks._vllm_baseline import start_vllm
from benchmarks._workload import N_CANDIDATES
from mllm_msr.interfaces import Backend
from mllm_msr.models.inputs import Renderer
from mllm_msr.ranker.examples import CHOICES, Example
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
    """Compare implementations of scoring.

    Args:
        shapes: "demo" (the demo model), "smollm" (the pretrained model of the extra `small`), or
            random weights: "middle" (134 million), "7b" (shapes of LLaVA-v1.6-mistral, for a GPU),
            "smolvlm2-256m", "smolvlm2-500m", "qwen3-vl-2b", "tiny" or "qwen3-vl-tiny".
        users: Number of users with 21 candidates each; our implementation scores all of them.
        items: Number of items in the catalog; with more pairs per item, more can be shared.
        device: A torch device.
        dtype: "float32", "bfloat16", or "auto" for float32 on a CPU and bfloat16 elsewhere.
        threads: Number of threads on a CPU.
        batch_size: Batch size of our implementation and of the strong one.
        repeats: Number of repeats; each runs all implementations alternately.
        released_pairs: Number of pairs of the released implementation.
        strong_pairs: Number of pairs of the strong implementation.
        vllm: 1 to also measure vLLM's server if `make vllm` has installed it, 0 to omit it.
        growth: Factor of the work for the growth of time and memory; 0 to omit the measurement.

    Returns:
        Settings, `ratios` of rates, agreement of the scores, and growth.
    """
    with open_setup(
        shapes, n_items=items, device=device, dtype=dtype, threads=threads, batch_size=batch_size
    ) as setup:
        result = {
            **setup.describe(),
            "pairs_per_item": round(users * N_CANDIDATES / items, 1),
            **_compare(
                setup,
                setup.workload.candidate_lists(users),
                repeats=repeats,
                released_pairs=released_pairs,
                strong_pairs=strong_pairs,
                vllm=bool(vllm),
            ),
        }
        if growth:
            few = max(users // 4, 1)
            measured = (in_new_process(_measure_ours, setup, n) for n in (few, growth * few))
            result["growth"] = growth_between(*measured)
    return result


def _compare(
    setup: Setup,
    examples: list[Example],
    *,
    repeats: int,
    released_pairs: int,
    strong_pairs: int,
    vllm: bool,
) -> dict[str, Any]:
    loaded = setup.load()
    released, strong = setup.baselines(loaded)
    ours = setup.ours()
    renderer = Renderer(loaded.processor, supports_images=True)
    rendered = [renderer.render(example.prompt) for example in examples]
    n_unique, n_images = unique_tokens(rendered)
    cost = Cost.measure(setup, loaded)
    part = examples[:strong_pairs]
    implementations = {
        "released": Implementation(_work(released, examples[:released_pairs]), released_pairs),
        "strong": Implementation(_work(strong, part), len(part)),
        OURS: Implementation(_work(ours, examples), len(examples)),
    }
    result: dict[str, Any] = {
        "prompt_tokens": sum(len(one.input_ids) for one in rendered),
        "image_tokens": cost.image_tokens,
        "unique_tokens": n_unique,
        "largest_difference": _largest_difference(strong, ours, part),
    }
    with start_vllm(setup, result, wanted=vllm) as baseline:
        if baseline is not None:
            result["largest_difference_to_vllm"] = _largest_difference(baseline.backend, ours, part)
            implementations[VLLM] = baseline.implementation(
                _work(baseline.backend, examples), len(examples)
            )
        result |= run_in_turn(
            implementations,
            repeats=repeats,
            device=setup.device,
            dtype=setup.dtype,
            flops=n_unique * cost.token + n_images * cost.image,
        )
        if baseline is not None:
            result["vllm_seconds"] = baseline.seconds()
    ours.close()
    return result


def _work(backend: Backend, examples: list[Example]) -> Callable[[], int]:
    def work() -> int:
        _, counts = score_examples(examples, backend)
        return counts.prompt_tokens

    return work


def _largest_difference(one: Backend, other: Backend, examples: list[Example]) -> float:
    """Return the largest difference of log-probabilities; this also warms up both backends."""
    prompts = [example.prompt for example in examples]
    first, second = (dict(backend.score(prompts, CHOICES)) for backend in (one, other))
    return max(
        abs(a - b)
        for index in first
        for a, b in zip(first[index].log_probs, second[index].log_probs, strict=True)
    )


def _measure_ours(setup: Setup, users: int) -> dict[str, float]:
    """Measure time and memory of our implementation; called in a new process."""
    torch.set_num_threads(setup.threads)
    examples = setup.workload.candidate_lists(users)
    backend = setup.ours()
    list(backend.score([examples[0].prompt], CHOICES))  # warm-up
    start = seconds_used(setup.device)
    score_examples(examples, backend)
    seconds = seconds_used(setup.device) - start
    return {"units": len(examples), "seconds": seconds, "peak_gb": peak_gb(setup.device)}
