"""Steps that measure the rows of docs/speed.md for the device."""

from __future__ import annotations

import json
from typing import Any, Final

import torch

from benchmarks import scoring
from benchmarks.__main__ import result_name
from benchmarks._measure import matmul_rate, round_digits
from benchmarks.gpu_check._step import Check, Record, StepSkippedError, require
from mllm_msr.storage.atomic import write_text

_FULL: Final = {"users": 20, "items": 30, "batch_size": 32, "released_pairs": 12}
_SMALL: Final = {"users": 2, "items": 21, "batch_size": 16, "released_pairs": 6, "repeats": 1}


def describe_device(check: Check, record: Record) -> None:
    """Describe the device and measure its matrix products."""
    record.add(torch=torch.__version__, cpu_threads=torch.get_num_threads())
    if check.device != "cpu":
        require(torch.cuda.is_available(), "PyTorch finds no CUDA device.")
        device = torch.cuda.get_device_properties(0)
        record.add(
            device_name=device.name,
            memory_gib=round(device.total_memory / 2**30, 1),
            capability=f"{device.major}.{device.minor}",
            cuda=torch.version.cuda,
            bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        )
    for dtype in ("float32", "bfloat16"):
        rate = round_digits(matmul_rate(check.device, dtype) / 1e12)
        record.add(**{f"matmul_tflops_{dtype}": rate})


def measure_scoring(check: Check, record: Record) -> None:
    """Measure the scoring of 1:20 lists against the baselines released and strong."""
    _measure(check, record, vllm=0)


def measure_scoring_with_vllm(check: Check, record: Record) -> None:
    """Measure the same with vLLM's server as well.

    Raises:
        StepSkippedError: vLLM is not installed.
    """
    if check.device == "cpu":
        raise StepSkippedError("python -m benchmarks scoring measures vLLM on a CPU")
    result = _measure(check, record, vllm=1)
    if "missing" in result:
        raise StepSkippedError(result["missing"]["vllm"])


def _measure(check: Check, record: Record, *, vllm: int) -> dict[str, Any]:
    """Run the benchmark `scoring` and save its result for benchmarks/results."""
    result = scoring.run(
        shapes=check.shape,
        device=check.device,
        dtype=check.half,
        vllm=vllm,
        growth=0,
        **(_SMALL if check.is_small else _FULL),
    )
    record.add(**result)
    name = result_name("scoring", result)
    write_text(check.output / "results" / f"{name}.json", json.dumps(result, indent=2) + "\n")
    return result
