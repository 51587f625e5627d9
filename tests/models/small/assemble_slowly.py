"""Open the small model in a separate process, with an assembly that takes no real weights.

Usage: python assemble_slowly.py CACHE LOG (die | wait FILE | now). "die" kills the process in the
middle of the assembly, "wait" continues when a file exists. Each assembly adds a line to LOG.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from mllm_msr.models.small import cache


def main(folder: str, log: str, mode: str, *signals: str) -> None:
    """Open the model and print its folder."""

    def assemble(target: Path, *, image_grid: int) -> None:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
        (target / "config.json").write_text("{}")
        if mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        while mode == "wait" and not Path(signals[0]).exists():
            time.sleep(0.05)
        (target / "model.safetensors").write_bytes(b"weights" * image_grid)

    os.environ["XDG_CACHE_HOME"] = folder
    cache.assemble = assemble  # type: ignore[assignment]
    cache.require_packages = lambda: None
    sys.stdout.write(f"{cache.small_checkpoint(4)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
