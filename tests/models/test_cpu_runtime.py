"""Tests of the environment defaults, and that torch applies them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mllm_msr.models import cpu_runtime

# Memory growth in MB after matrix products that each have a new shape.
_GROWTH = """
from mllm_msr.models import cpu_runtime
cpu_runtime.set_defaults()
import ctypes, gc, torch
torch.set_num_threads(1)
def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
weight = torch.ones(3, 64, 64, dtype=torch.bfloat16)
def products(first):
    for n in range(first, first + 200):
        weight @ torch.ones(3, 64, n, dtype=torch.bfloat16)
products(64)
before = resident()
products(1000)
products(2000)
print(resident() - before)
"""


def test_variables_that_are_set_keep_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cpu_runtime.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    cpu_runtime.set_defaults()
    found = {name: os.environ[name] for name in cpu_runtime.DEFAULTS}
    assert found == {**cpu_runtime.DEFAULTS, "GOMP_SPINCOUNT": "7"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_torch_caches_few_kernels() -> None:
    given = {k: v for k, v in os.environ.items() if k not in cpu_runtime.DEFAULTS}
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH], env=given, capture_output=True, text=True, check=True
    )
    # 1 MB; 236 MB with torch's own defaults on a processor that supports bfloat16.
    assert float(done.stdout) < 100
