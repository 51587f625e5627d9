"""Hardware of this process, recorded with each stage: times mean little without it.

The name of the machine is left out, because run folders and reports are shared.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Final

_CPU_INFO: Final = Path("/proc/cpuinfo")


def describe_hardware() -> str:
    """Return the processor with its cores, and the GPUs that this process has used.

    A GPU is named only if a model has run on GPUs, which loads torch; this function does not.
    """
    parts = [f"{_processor()}, {os.cpu_count()} cores"]
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        names = Counter(map(torch.cuda.get_device_name, range(torch.cuda.device_count())))
        parts += [name if n == 1 else f"{n} x {name}" for name, n in names.items()]
    else:
        parts.append("no GPU used")
    return ", ".join(parts)


@functools.cache
def _processor() -> str:
    """Return the name of the processor, or else its architecture."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [value.strip() for line in lines for key, _, value in [line.partition(":")]
             if key.strip() == "model name"]  # fmt: skip
    return next(filter(None, names), "") or platform.processor() or platform.machine()
