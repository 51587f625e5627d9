"""Tokens per second: durations, and measurement with a backend whose speed is known."""

from __future__ import annotations

import time

import pytest

from mllm_msr.pipeline.cost.throughput import Rates, Throughput


def test_duration_of_input_and_output() -> None:
    assert Rates(100, 10).seconds(200, 30) == 5.0
    assert Rates(100, None).seconds(200, 0) == 2.0
    assert Rates(100, None).seconds(200, 1) is None
    assert Rates(None, 10).seconds(200, 30) is None


class _Counting:
    def __init__(self) -> None:
        self.calls: list[object] = []


class _Call:
    class prompt:  # noqa: N801
        n_tokens = 30

    n_output = 6


class _Backend:
    hits = 0


@pytest.mark.parametrize("n_cached", [0, 3, 4])
def test_measurement_without_blocks_that_the_cache_answered(
    n_cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 13.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    counting, backend, throughput = _Counting(), _Backend(), Throughput()
    with throughput.measure(counting, backend):  # type: ignore[arg-type]
        counting.calls += [_Call] * 6
        backend.hits += n_cached
    expected = None if n_cached > 3 else 60.0
    assert throughput.prompt_rate() == expected
    assert throughput.output_rate(120.0) == (None if n_cached > 3 else 36 / 1.5)
    assert throughput.output_rate(None) is None
