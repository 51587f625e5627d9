"""Run the check on a GPU: `python -m benchmarks.gpu_check --output FOLDER`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_check._runner import run_step, run_steps
from benchmarks.gpu_check._step import Check
from benchmarks.gpu_check._steps import STEPS
from mllm_msr.models import cpu_runtime


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check.

    Returns:
        The exit code: 0 if every step passed or was skipped, otherwise 1.
    """
    cpu_runtime.set_defaults()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description="Check the package on a GPU. Steps that passed before are not run again.",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", default="qwen3-vl-2b", help="random model; tiny for a CPU")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=9.5, help="limit of the time")
    parser.add_argument("--steps", help=f"comma-separated; default: {','.join(STEPS)}")
    parser.add_argument("--step", choices=tuple(STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    check = Check(options.device, options.shape, options.output.resolve())
    if options.step:
        return run_step(check, options.step)
    names = options.steps.split(",") if options.steps else tuple(STEPS)
    if unknown := set(names) - set(STEPS):
        parser.error(f"unknown steps {', '.join(sorted(unknown))}; choose from {', '.join(STEPS)}")
    check.output.mkdir(parents=True, exist_ok=True)
    missing = run_steps(
        check, names, seconds=60 * options.minutes, show=lambda line: print(line, flush=True)
    )
    if missing:
        print(f"Not passed: {', '.join(missing)}. See {check.output}/steps and logs.")
    return int(bool(missing))


if __name__ == "__main__":
    # SystemExit runs the `finally` blocks, so that processes started by a step stop with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
