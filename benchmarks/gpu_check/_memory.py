"""Step that compares measured peaks of memory with what `mllm-msr plan` estimates."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks._measure import peak_gb
from benchmarks.gpu_check._precision import train_adapter
from benchmarks.gpu_check._step import Check, Record, require
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.config.loading import load_settings
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import load_processor
from mllm_msr.pipeline.cost.memory import with_memory
from mllm_msr.pipeline.cost.report import CostReport, StageCost
from mllm_msr.prompts.templates import TOKENS_PER_WORD
from mllm_msr.ranker.examples import CHOICES
from mllm_msr.types import Prompt

# The plan may underestimate by this factor. It overestimates prompts that share prefixes.
_FACTOR: Final = 1.2
_BATCH_SIZE: Final = 16
_WORDS: Final = 8


def measure_memory(check: Check, record: Record) -> None:
    """Measure the peak memory of scoring, writing and training with the random model."""
    prompts = [one.prompt for one in check.workload().candidate_lists(3)]
    estimates = _estimate(check, prompts)
    record.add(estimated_gb=estimates, measured_gb={}, of="resident memory of the process")
    if check.device != "cpu":
        record.add(of="tensors on the GPU")
    work: dict[str, Callable[[], Any]] = {
        "score": lambda: _use(check, lambda backend: list(backend.score(prompts, CHOICES))),
        "infer": lambda: _use(check, lambda backend: list(backend.generate(_written(prompts)))),
        "train": lambda: train_adapter(check, Path(), precision=check.precision),
    }
    measured = {}
    for name, run in work.items():
        measured[name] = _peak_of(check, run)
        record.add(measured_gb=measured)
    if check.device == "cpu":
        return  # the process contains what other checks have left
    for name, peak in measured.items():
        require(
            peak <= _FACTOR * estimates[name],
            f"The peak of {name} is {peak:.2f} GB, more than the plan's {estimates[name]:.2f} GB.",
        )


def _estimate(check: Check, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return the estimates of the plan for stages with these prompts, in GB."""
    settings = load_settings(
        "demo",
        [
            "model.backend=huggingface",
            f"model.checkpoint={check.checkpoint()}",
            f"model.device={check.device}",
            f"model.dtype={check.half}",
            f"model.batch_size={_BATCH_SIZE}",
            f"train.precision={check.precision}",
            "train.batch_size=8",
            "train.rank=4",
            f"infer.words={_WORDS}",
        ],
    )
    renderer = Renderer(load_processor(str(check.checkpoint())), supports_images=True)
    longest = max(len(renderer.render(prompt).input_ids) for prompt in prompts)
    stages = (
        StageCost(name, "huggingface", longest_prompt=longest)
        for name in ("score", "infer", "train")
    )
    found = with_memory(CostReport(tuple(stages), "", ""), settings).stages
    return {one.stage: round((one.memory_bytes or 0) / 1e9, 4) for one in found}


def _peak_of(check: Check, run: Callable[[], Any]) -> float:
    """Return the peak of memory while a function runs, in GB; on a CPU that of the process."""
    gc.collect()
    check.free_gpu()
    if check.device == "cpu":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    else:
        torch.cuda.reset_peak_memory_stats()
    run()
    return round(peak_gb(check.device), 4)


def _use(check: Check, work: Callable[[HuggingFaceBackend], Any]) -> None:
    backend = HuggingFaceBackend(
        str(check.checkpoint()),
        dtype=check.half,
        device=check.device,
        batch_size=_BATCH_SIZE,
        speculative_tokens=0,
    )
    with closing(backend):
        work(backend)


def _written(prompts: Sequence[Prompt]) -> list[Prompt]:
    new_tokens = _WORDS * TOKENS_PER_WORD
    return [replace(prompt, max_new_tokens=new_tokens) for prompt in prompts]
