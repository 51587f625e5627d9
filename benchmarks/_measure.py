"""How the speed benchmarks measure: ways in turn on the same work, medians, the machine's own rate.

Elapsed times on a machine that does other things say little. On a CPU, time is therefore the
processor time of this process, all threads, and of a server that it asks; every repeat runs all
ways one after another, and the ratio of each repeat is taken before the median. Memory and growth
are measured in processes of their own.
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
        "Seconds are processor seconds of all threads: on a machine that does other work they "
        "say more than elapsed ones. Ratios are medians of repeats that run all ways in turn."
    ),
    "cuda": "Seconds are elapsed ones. Ratios are medians of repeats that run all ways in turn.",
}


class Clock(Protocol):
    """Knows how long the part that counts took."""

    @property
    def seconds(self) -> float:
        """The latest duration."""


class TreeClock:
    """Times what this process does together with servers that it has started.

    While some of their processes wait for others they may spin, and on a busy machine the clock
    runs on: neither is held against them.

    Attributes:
        processor: Processor seconds of this process and all that it has started, of each block.
        elapsed: Seconds that passed in each block.
    """

    def __init__(self) -> None:
        self.processor: list[float] = []
        self.elapsed: list[float] = []

    @property
    def seconds(self) -> float:
        """Of the latest block, whichever of the two is less."""
        return min(self.processor[-1], self.elapsed[-1])

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time a block."""
        used, begun = tree_seconds(), time.perf_counter()
        yield
        self.elapsed.append(time.perf_counter() - begun)
        self.processor.append(tree_seconds() - used)


@dataclass(slots=True)
class Way:
    """One way to do the work.

    Attributes:
        run: Does it, and returns the tokens that it read and wrote.
        units: Pairs, items, users or samples that it handles: slow ways do a part of the work.
        clock: Tells the seconds of `run` where not all of it counts.
        seconds: Duration of each repeat.
        tokens: What `run` returned last.
    """

    run: Callable[[], int]
    units: int
    clock: Clock | None = None
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def rates(self) -> list[float]:
        """Units per second of each repeat."""
        return [self.units / seconds for seconds in self.seconds]


def alternate(
    ways: Mapping[str, Way], *, repeats: int, device: str, dtype: str, flops: float
) -> dict[str, Any]:
    """Run all ways in turn.

    Args:
        ways: By name, `OURS` among them.
        repeats: Rounds, of which medians are given.
        device: Where the models are.
        dtype: Their precision, in which the machine's rate is measured.
        flops: Floating-point operations of our way's work, each different token read once.

    Returns:
        `ratios`: our rate over each other way's, and all else that was measured.
    """
    load = os.getloadavg()[0]
    peak = []
    for _ in range(repeats):
        peak.append(matmul_rate(device, dtype))
        for way in ways.values():
            start = now(device)
            way.tokens = way.run()
            elapsed = now(device) - start
            way.seconds.append(way.clock.seconds if way.clock else elapsed)
    ours = ways[OURS]
    needed = flops / statistics.median(ours.seconds)
    matmul = statistics.median(peak)
    return {
        "ratios": {
            name: _rounded(statistics.median(_ratios(ours, way)))
            for name, way in ways.items()
            if name != OURS
        },
        "ratios_of_repeats": {
            name: [_rounded(ratio) for ratio in _ratios(ours, way)]
            for name, way in ways.items()
            if name != OURS
        },
        "per_second": {n: _rounded(statistics.median(way.rates)) for n, way in ways.items()},
        "tokens_per_second": {
            n: _rounded(way.tokens / statistics.median(way.seconds)) for n, way in ways.items()
        },
        "units_measured": {n: way.units for n, way in ways.items()},
        "matmul_gflops": _rounded(matmul / 1e9),
        "unique_gflops": _rounded(needed / 1e9),
        "share_of_matmul": _rounded(needed / matmul),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "caveat": _CAVEATS[device.partition(":")[0]],
    }


def _ratios(ours: Way, other: Way) -> list[float]:
    return [a / b for a, b in zip(ours.rates, other.rates, strict=True)]


def _rounded(value: float) -> float:
    """Three digits are all that such measurements carry."""
    return float(f"{value:.3g}")


def matmul_rate(device: str, dtype: str) -> float:
    """Floating-point operations per second of large matrix products here and now."""
    size = 8192 if device.startswith("cuda") else 1024
    square = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    square @ square  # warms up
    start, n_products = now(device), 0
    while (elapsed := now(device) - start) < 0.3:
        for _ in range(4):
            square @ square
        n_products += 4
    return 2.0 * size**3 * n_products / elapsed


def now(device: str) -> float:
    """Seconds of this process's threads on a CPU; of a clock, once a GPU has finished."""
    if not device.startswith("cuda"):
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def tree_seconds() -> float:
    """Processor time of this process and all that it has started: servers and workers included."""
    here = psutil.Process()
    total = 0.0
    for process in (here, *here.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def apart(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def peak_gb(device: str) -> float:
    """Most memory that this process has held so far: a GPU's, or resident, in GB."""
    if device.startswith("cuda"):
        return round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
    # Not getrusage: its figure is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) * 1024 / 1e9, 3)


def growth_of(small: Mapping[str, float], large: Mapping[str, float]) -> dict[str, Any]:
    """How time and memory grew between two amounts of work.

    Args:
        small: `units`, `seconds` and `peak_gb` of the small amount.
        large: Those of the large one.
    """
    times = large["units"] / small["units"]
    return {
        "work_times": _rounded(times),
        "time_times": _rounded(large["seconds"] / small["seconds"]),
        "peak_gb": [small["peak_gb"], large["peak_gb"]],
        "seconds": [_rounded(small["seconds"]), _rounded(large["seconds"])],
    }
