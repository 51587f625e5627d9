"""What OpenMP and oneDNN are told before torch is imported, which is when they listen.

The command line and the benchmarks call `set_defaults` first; who uses the library from Python may
do the same. A variable that is set already stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

DEFAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Threads that wait for each other spin for milliseconds by default, which on a machine
        # with other work takes several times as long as sleeping.
        "GOMP_SPINCOUNT": "2000",
        # Kernels of bfloat16 products are made for one shape each, and two caches keep the latest
        # 1,024 of them, a megabyte or more apiece. Batches without padding have a new shape in
        # every step: SASRec's training took twice the memory, Trans2D's 7 GB within half an hour,
        # and a step seldom needs a hundred kernels.
        "LRU_CACHE_CAPACITY": "128",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    }
)


def set_defaults() -> None:
    """Put `DEFAULTS` into the environment, where it has no value of its own."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
