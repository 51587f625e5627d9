"""Scoring of one user's list of candidates, as in a service, with both orders of the prompt."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable
from typing import Any, Final

from benchmarks._measure import OURS, Implementation, run_in_turn
from benchmarks._setup import Cost, Setup, open_setup
from benchmarks._vllm_baseline import NAME as VLLM
from benchmarks._vllm_baseline import start_vllm
from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.inference.engine.engine import Engine
from mllm_msr.interfaces import Backend
from mllm_msr.ranker.examples import CHOICES
from mllm_msr.types import Prompt

WHOLE: Final = "whole prompts"

_N_USERS: Final = 8


def run(
    *,
    shapes: str = "demo",
    candidates: int = 100,
    items: int = 100,
    device: str = "cpu",
    dtype: str = "auto",
    threads: int = 1,
    batch_size: int = 64,
    repeats: int = 3,
    whole_candidates: int = 20,
    vllm: int = 1,
) -> dict[str, Any]:
    """Compare user-first prompts, which share the user, with item-first and with whole prompts.

    "cached" implementations have seen the items before, like a service after its warm-up: the
    states of images (item-first) or their features (user-first) are in memory.

    Args:
        shapes: "demo" (the demo model), "smollm" (the pretrained model of the extra `small`), or
            random weights: "middle" (134 million), "7b" (shapes of LLaVA-v1.6-mistral, for a GPU),
            "smolvlm2-256m", "smolvlm2-500m", "qwen3-vl-2b", "tiny" or "qwen3-vl-tiny".
        candidates: Number of candidates of the user.
        items: Number of items in the catalog; with fewer items than candidates, images repeat.
        device: A torch device.
        dtype: "float32", "bfloat16", or "auto" for float32 on a CPU and bfloat16 elsewhere.
        threads: Number of threads on a CPU.
        batch_size: Batch size of all implementations.
        repeats: Number of repeats; each runs all implementations alternately.
        whole_candidates: Number of candidates that whole prompts are measured with; they share
            nothing, so that their rate does not depend on it.
        vllm: 1 to also measure vLLM's server if `make vllm` has installed it, 0 to omit it.

    Returns:
        Settings, `ratios` of rates, tokens that each implementation computes, and agreement of the
        scores of user-first prompts.
    """
    with open_setup(
        shapes, n_items=items, device=device, dtype=dtype, threads=threads, batch_size=batch_size
    ) as setup:
        loaded = setup.load()
        _, strong = setup.baselines(loaded)
        engine, warm, with_states = (
            Engine(loaded, batch_size=batch_size, prefix_cache_bytes=size) for size in (0, 0, 2**30)
        )
        item_first, user_first = (
            _prompts(setup, candidates, "item-first"),
            _prompts(setup, candidates, "user-first"),
        )
        n_whole = min(whole_candidates, candidates)
        sizes = collections.defaultdict(lambda: candidates, {WHOLE: n_whole})
        work = {
            WHOLE: _work(strong, [prompts[:n_whole] for prompts in user_first]),
            "item-first": _work(engine, item_first, before=engine.clear_caches),
            "item-first, cached": _work(with_states, item_first),
            "user-first, cached": _work(warm, user_first),
            OURS: _work(engine, user_first, before=engine.clear_caches),
        }
        for score in [work["item-first, cached"], work["user-first, cached"]] * 2:
            score()  # a second user shows what prompts have in common
        computed = {
            name: _count_tokens(loaded.model, score) * candidates // sizes[name]
            for name, score in work.items()
        }
        cost = Cost.measure(setup, loaded)
        result: dict[str, Any] = {
            **setup.describe(),
            "candidates": candidates,
            "computed_tokens": computed,
            "largest_difference": _largest_difference(strong, engine, user_first[0][:n_whole]),
        }
        implementations = {name: Implementation(score, sizes[name]) for name, score in work.items()}
        with start_vllm(setup, result, wanted=bool(vllm)) as baseline:
            if baseline is not None:
                score = _work(baseline.backend, user_first)
                implementations[VLLM] = baseline.implementation(score, candidates)
            result |= run_in_turn(
                implementations,
                repeats=repeats,
                device=setup.device,
                dtype=setup.dtype,
                flops=computed[OURS] * cost.token + len(set(user_first[0])) * cost.image,
            )
            if baseline is not None:
                result["vllm_seconds"] = baseline.seconds()
        return result


def _prompts(setup: Setup, n_candidates: int, order: PromptOrder) -> list[list[Prompt]]:
    """Return the prompts of the candidates of each user."""
    return [
        [one.prompt for one in setup.workload.one_list(user, n_candidates, order=order)]
        for user in range(_N_USERS)
    ]


def _count_tokens(model: Any, score: Callable[[], int]) -> int:
    """Return the number of tokens, including padding, that a model computes in a call."""
    counts: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: counts.append(given["input_ids"].numel()), with_kwargs=True
    )
    score()
    hook.remove()
    return sum(counts)


def _work(
    backend: Backend | Engine,
    lists: list[list[Prompt]],
    *,
    before: Callable[[], None] = lambda: None,
) -> Callable[[], int]:
    """Return a function that scores the list of another user in every call."""
    users = itertools.cycle(lists)

    def score() -> int:
        before()
        return sum(found.prompt_tokens for _, found in backend.score(next(users), CHOICES))

    return score


def _largest_difference(
    one: Backend | Engine, other: Backend | Engine, prompts: list[Prompt]
) -> float:
    first, second = (dict(each.score(prompts, CHOICES)) for each in (one, other))
    return max(
        abs(a - b)
        for index in first
        for a, b in zip(first[index].log_probs, second[index].log_probs, strict=True)
    )
