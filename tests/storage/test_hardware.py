"""Hardware of this process, as the manifest records it."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mllm_msr.storage import hardware


@pytest.fixture(autouse=True)
def uncached() -> None:
    hardware._processor.cache_clear()


def test_the_processor_is_named_and_the_machine_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Zen 9\n\nprocessor\t: 1\nmodel name\t: Zen 9\n")
    monkeypatch.setattr(hardware, "_CPU_INFO", info)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    described = hardware.describe_hardware()
    assert described == f"Zen 9, {os.cpu_count()} cores, no GPU used"
    assert socket.gethostname() not in described


def test_without_a_name_the_architecture_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_CPU_INFO", tmp_path / "absent")
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert hardware.describe_hardware().startswith("riscv64, ")


@pytest.mark.parametrize(
    ("used", "names", "end"),
    [
        (True, ["H200"], "cores, H200"),
        (True, ["H200", "H200"], "cores, 2 x H200"),
        (True, ["H200", "A100"], "cores, H200, A100"),
        (False, ["H200"], "cores, no GPU used"),
    ],
)
def test_gpus_are_named_if_they_were_used(
    monkeypatch: pytest.MonkeyPatch, used: bool, names: list[str], end: str
) -> None:
    cuda = SimpleNamespace(
        is_initialized=lambda: used,
        device_count=lambda: len(names),
        get_device_name=names.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert hardware.describe_hardware().endswith(end)
