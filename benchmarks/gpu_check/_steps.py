"""The steps of the check, in their order: the most important ones first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from benchmarks.gpu_check import _equality, _memory, _precision, _runs, _speed
from benchmarks.gpu_check._step import Check, Record

Step = Callable[[Check, Record], None]

STEPS: Final[Mapping[str, Step]] = MappingProxyType(
    {
        "device": _speed.describe_device,
        "equality-demo": _equality.compare_demo,
        "run-demo": _runs.run_demo,
        "equality": _equality.compare_shape,
        "run": _runs.run_shape,
        "memory": _memory.measure_memory,
        "scoring": _speed.measure_scoring,
        "float16": _precision.check_float16,
        "4bit": _precision.check_4bit,
        "scoring-vllm": _speed.measure_scoring_with_vllm,
    }
)
