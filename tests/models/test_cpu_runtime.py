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


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_bf16": False, "avx512_f": True}, False),
        ({}, False),
    ],
)
def test_processors_with_bfloat16_are_known(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert cpu_runtime.has_bfloat16() is expected


def test_without_the_list_of_capabilities_bfloat16_is_not_assumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not cpu_runtime.has_bfloat16()
