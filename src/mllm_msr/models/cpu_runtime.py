"""Environment defaults for OpenMP and oneDNN on a CPU.

Both libraries read these variables when torch is imported, so `set_defaults` must run before that.
The command line and the benchmarks call it first; other programs may call it as well. Variables
that are already set keep their values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

DEFAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # By default, waiting OpenMP threads spin for milliseconds, which slows them down several
        # times on a machine with other load.
        "GOMP_SPINCOUNT": "2000",
        # oneDNN compiles kernels of bfloat16 products for a single shape and stores the latest
        # 1,024 of them in two caches, a megabyte or more each. Batches without padding have a new
        # shape at every step: SASRec needed twice the memory for training, and Trans2D reached
        # 7 GB within half an hour. A step rarely needs a hundred kernels.
        "LRU_CACHE_CAPACITY": "128",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    }
)


def has_bfloat16() -> bool:
    """Return whether an x86 processor has instructions for products in bfloat16.

    Without them, bfloat16 is several times slower than float32. Imports torch.
    """
    return _has_any("avx512_bf16", "amx_bf16")


def has_matrix_unit() -> bool:
    """Return whether an x86 processor has a matrix unit for bfloat16 (AMX). Imports torch."""
    return _has_any("amx_bf16")


def _has_any(*names: str) -> bool:
    import torch  # noqa: PLC0415 - `set_defaults` must run before

    found: Callable[[], Mapping[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = found()  # empty with versions of PyTorch that lack the function
    return any(capabilities.get(name) for name in names)


def set_defaults() -> None:
    """Set every variable of `DEFAULTS` that the environment does not define."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
