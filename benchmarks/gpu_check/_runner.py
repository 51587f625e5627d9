"""Run the steps of the check in processes of their own, within a limit of time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu_check._step import Check, CheckFailedError, Record, Status, StepSkippedError
from benchmarks.gpu_check._steps import STEPS
from mllm_msr.storage.atomic import write_text

# A step that would have less time is not started.
_SHORTEST_SECONDS: Final = 15.0
_SHUTDOWN_SECONDS: Final = 30.0
_EXCERPT_CHARACTERS: Final = 800
_ROOT: Final = Path(__file__).parents[2]


def run_step(check: Check, name: str) -> int:
    """Run a step in this process and write its results.

    Returns:
        0 if it passed or was skipped, otherwise 1.
    """
    record, start = check.record(name), time.monotonic()
    record.write("running")
    status: Status = "running"  # if the process is stopped
    reason = ""
    try:
        STEPS[name](check, record)
        status = "passed"
    except StepSkippedError as skipped:
        status, reason = "skipped", str(skipped)
    except CheckFailedError as failed:
        status, reason = "failed", str(failed)
    except Exception as error:
        status, reason = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        record.write(status, reason=reason, seconds=time.monotonic() - start)
    return int(status == "failed")


def run_steps(
    check: Check, names: Iterable[str], *, seconds: float, show: Callable[[str], None]
) -> list[str]:
    """Run all steps that have not passed yet, and go on after those that fail.

    Args:
        check: Options of the check.
        names: Names of the steps.
        seconds: Limit of the time for all of them.
        show: Called with a line for each step.

    Returns:
        The names of the steps that failed or were not run for lack of time.
    """
    deadline = time.monotonic() + seconds
    missing = []
    summary: dict[str, dict[str, Any]] = {}
    for name in names:
        found, before = _read(check.record(name)), "before"
        if found.get("status") != "passed":
            found, before = _run(check, name, deadline - time.monotonic()), ""
        if found["status"] not in {"passed", "skipped"}:
            missing.append(name)
        summary[name] = {key: found[key] for key in ("status", "seconds", "reason")}
        write_text(check.output / "summary.json", json.dumps(summary, indent=2) + "\n")
        show(
            f"{found['status']:<8} {name:<14} {found['seconds']:>6.1f} s {before}{found['reason']}"
        )
    return missing


def _run(check: Check, name: str, seconds: float) -> dict[str, Any]:
    """Run a step in a new process and return its file."""
    if seconds < _SHORTEST_SECONDS:
        return {"status": "not run", "seconds": 0.0, "reason": "no time is left"}
    record = check.record(name)
    record.write("running")
    log = check.output / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        code = _wait(check, name, seconds, output)
    found = _read(record)
    if found["status"] == "running":
        text = log.read_text(encoding="utf-8", errors="replace").strip()[-_EXCERPT_CHARACTERS:]
        reason = "no time is left" if code is None else f"ended with code {code}: {text}"
        record.values = found["results"]
        record.write("failed", reason=reason, seconds=time.monotonic() - start)
    return _read(record)


def _wait(check: Check, name: str, seconds: float, output: Any) -> int | None:
    """Run a step's process; return its exit code, or None if it was stopped."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--step", name]
    command += ["--device", check.device, "--shape", check.shape, "--output", str(check.output)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if check.device == "cpu" else {}
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        env={**os.environ, **hidden, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # own process group, to stop its children with it
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and its children."""
    if process.poll() is None:
        process.terminate()  # which runs its `finally` blocks
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SHUTDOWN_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(record: Record) -> dict[str, Any]:
    """Return the file of a step; empty if it has none of the same device and shape."""
    if not record.path.is_file():
        return {}
    found: dict[str, Any] = json.loads(record.path.read_text(encoding="utf-8"))
    same = all(found.get(key) == value for key, value in record.options.items())
    return found if same else {}
