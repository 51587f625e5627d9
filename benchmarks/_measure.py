"""Timing, memory and repeats of the speed benchmarks.

Elapsed times are unreliable on a machine with other load. On a CPU, time is therefore the
processor time of all threads of this process and of a server that it calls. Each repeat runs all
implementations one after another; ratios are computed per repeat, and their median is reported.
Peak memory and growth are measured in new processes.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import psutil  # type: ignore[import-untyped]
import torch

P = ParamSpec("P")
R = TypeVar("R")

OURS: Final = "ours"
_CAVEATS: Final = {
    "cpu": (
        "Seconds are processor seconds of all threads, because elapsed seconds depend on other "
        "load. Ratios are medians over repeats that run all implementations in turn."
    ),
    "cuda": (
        "Seconds are elapsed seconds. Ratios are medians over repeats that run all "
        "implementations in turn."
    ),
}


class Clock(Protocol):
    """Clock that measures a part of an implementation."""

    @property
    def seconds(self) -> float:
        """Return the latest duration in seconds."""


class ProcessTreeClock:
    """Clock of this process and the servers that it has started.

    Busy waiting of server processes increases processor time, and other load on the machine
    increases elapsed time. The smaller of both values is used, which favors the server.

    Attributes:
        processor: Processor seconds of this process and all its children, per timed block.
        elapsed: Elapsed seconds, per timed block.
    """

    def __init__(self) -> None:
        self.processor: list[float] = []
        self.elapsed: list[float] = []

    @property
    def seconds(self) -> float:
        """Return the smaller of the two durations of the latest block."""
        return min(self.processor[-1], self.elapsed[-1])

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time a `with` block."""
        used, start = process_tree_seconds(), time.perf_counter()
        yield
        self.elapsed.append(time.perf_counter() - start)
        self.processor.append(process_tree_seconds() - used)


@dataclass(slots=True)
class Implementation:
    """One implementation of the measured work.

    Attributes:
        run: Does the work and returns the number of prompt and output tokens.
        units: Number of pairs, items, users or samples that it processes; slow implementations
            only process a part of the work.
        clock: Clock that measures the relevant part of `run`; None to measure all of it.
        seconds: Duration of each repeat.
        tokens: Latest return value of `run`.
    """

    run: Callable[[], int]
    units: int
    clock: Clock | None = None
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def rates(self) -> list[float]:
        """Return the units per second of each repeat."""
        return [self.units / seconds for seconds in self.seconds]


def run_in_turn(
    implementations: Mapping[str, Implementation],
    *,
    repeats: int,
    device: str,
    dtype: str,
    flops: float,
) -> dict[str, Any]:
    """Run all implementations alternately and compare their rates.

    Args:
        implementations: Implementations by name, including `OURS`.
        repeats: Number of repeats, over which medians are computed.
        device: Device of the models.
        dtype: Data type of the models and of the matrix products that measure the peak rate.
        flops: Floating-point operations of our implementation if each distinct token is processed
            once.

    Returns:
        `ratios`, our rate divided by each of the other rates, and all other measurements.
    """
    load = os.getloadavg()[0]
    matmul_rates = []
    for _ in range(repeats):
        matmul_rates.append(matmul_rate(device, dtype))
        for implementation in implementations.values():
            start = seconds_used(device)
            implementation.tokens = implementation.run()
            used = seconds_used(device) - start
            clock = implementation.clock
            implementation.seconds.append(clock.seconds if clock else used)
    ours = implementations[OURS]
    ratios = {
        name: [a / b for a, b in zip(ours.rates, other.rates, strict=True)]
        for name, other in implementations.items()
        if name != OURS
    }
    achieved = flops / statistics.median(ours.seconds)
    matmul = statistics.median(matmul_rates)
    return {
        "ratios": {n: round_digits(statistics.median(values)) for n, values in ratios.items()},
        "ratios_of_repeats": {n: list(map(round_digits, values)) for n, values in ratios.items()},
        "per_second": {
            n: round_digits(statistics.median(one.rates)) for n, one in implementations.items()
        },
        "tokens_per_second": {
            n: round_digits(one.tokens / statistics.median(one.seconds))
            for n, one in implementations.items()
        },
        "units_measured": {n: one.units for n, one in implementations.items()},
        "matmul_gflops": round_digits(matmul / 1e9),
        "unique_gflops": round_digits(achieved / 1e9),
        "share_of_matmul": round_digits(achieved / matmul),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "caveat": _CAVEATS[device.partition(":")[0]],
    }


def round_digits(value: float) -> float:
    """Round to three significant digits; the measurements are not more precise."""
    return float(f"{value:.3g}")


def matmul_rate(device: str, dtype: str) -> float:
    """Return the measured floating-point operations per second of large matrix products."""
    size = 8192 if device.startswith("cuda") else 1024
    square = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    square @ square  # warm-up
    start, n_products = seconds_used(device), 0
    while (elapsed := seconds_used(device) - start) < 0.3:
        for _ in range(4):
            square @ square
        n_products += 4
    return 2.0 * size**3 * n_products / elapsed


def seconds_used(device: str) -> float:
    """Return the processor seconds of all threads; for a GPU, synchronize and return the time."""
    if not device.startswith("cuda"):
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def process_tree_seconds() -> float:
    """Return the processor seconds of this process and all its child processes."""
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def in_new_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function in a new process and return its result."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def peak_gb(device: str) -> float:
    """Return the peak memory of this process in GB: GPU allocations, or resident memory."""
    if device.startswith("cuda"):
        return round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
    # The value of getrusage would be inherited from the parent process.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) * 1024 / 1e9, 3)


def growth_between(small: Mapping[str, float], large: Mapping[str, float]) -> dict[str, Any]:
    """Compare time and memory of two amounts of work.

    Args:
        small: `units`, `seconds` and `peak_gb` of the smaller amount.
        large: The same values of the larger amount.

    Returns:
        Factors by which work and time grow, and memory and seconds of both amounts.
    """
    return {
        "work_times": round_digits(large["units"] / small["units"]),
        "time_times": round_digits(large["seconds"] / small["seconds"]),
        "peak_gb": [small["peak_gb"], large["peak_gb"]],
        "seconds": [round_digits(small["seconds"]), round_digits(large["seconds"])],
    }
