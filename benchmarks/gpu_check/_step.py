"""What a step of the check gets and writes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch

from benchmarks._checkpoints import make_checkpoint
from benchmarks._workload import Workload
from mllm_msr.storage.atomic import write_text
from mllm_msr.types import Precision

Status = Literal["running", "passed", "skipped", "failed"]

# Shapes whose steps are small enough for a test on a CPU.
_TINY: Final = ("tiny", "qwen3-vl-tiny")


class CheckFailedError(Exception):
    """A result is not what it should be; the message says which and why."""


class StepSkippedError(Exception):
    """A step cannot run on this machine; the message says why."""


def require(condition: bool, message: str) -> None:
    """Raise `CheckFailedError` with a message unless a condition holds."""
    if not condition:
        raise CheckFailedError(message)


@dataclass(slots=True)
class Record:
    """Results of a step, which are in its file at any time.

    Attributes:
        path: The file.
        options: Device and shape of the check.
        values: Results so far.
    """

    path: Path
    options: dict[str, str]
    values: dict[str, Any]

    def add(self, **values: Any) -> None:
        """Add results, and write the file."""
        self.values |= values
        self.write("running")

    def write(self, status: Status, *, reason: str = "", seconds: float = 0.0) -> None:
        """Write the file."""
        content = {
            "status": status,
            "reason": reason,
            "seconds": round(seconds, 1),
            **self.options,
            "results": self.values,
        }
        write_text(self.path, json.dumps(content, indent=2) + "\n")


@dataclass(frozen=True, slots=True)
class Check:
    """Options of the check, and its folder.

    Attributes:
        device: "cuda" or "cpu".
        shape: Name of the random model, see `benchmarks._checkpoints`.
        output: Folder of the results.
    """

    device: str
    shape: str
    output: Path

    @property
    def is_small(self) -> bool:
        """Return whether to do as little work as possible."""
        return self.shape in _TINY

    @property
    def half(self) -> Precision:
        """Return the data type of weights in training and in the speed comparison."""
        return "float32" if self.is_small else "bfloat16"

    @property
    def precision(self) -> Literal["bf16", "fp32"]:
        """Return `train.precision` for the data type of the weights."""
        return "bf16" if self.half == "bfloat16" else "fp32"

    def record(self, step: str) -> Record:
        """Return the empty record of a step."""
        path = self.output / "steps" / f"{step}.json"
        return Record(path, {"step": step, "device": self.device, "shape": self.shape}, {})

    def results_of(self, step: str) -> dict[str, Any]:
        """Return the results of a step that has run.

        Raises:
            CheckFailedError: It has no results.
        """
        path = self.record(step).path
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        require(bool(found.get("results")), f"The step {step} has no results. Run it first.")
        results: dict[str, Any] = found["results"]
        return results

    def workload(self) -> Workload:
        """Return a catalog of items with covers, which are drawn on first use."""
        folder = self.output / "covers"
        folder.mkdir(exist_ok=True)
        return Workload.make(folder, 30)

    def checkpoint(self) -> Path:
        """Return the folder of the random model, which is written on first use."""
        folder = self.output / "checkpoint"
        if not (folder / "complete").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            dtype = self.half
            texts = self.workload().texts()
            make_checkpoint(self.shape, folder, device=self.device, dtype=dtype, texts=texts)
            (folder / "complete").touch()
        return folder

    def free_gpu(self) -> None:
        """Return unused memory of the GPU to the driver."""
        if self.device != "cpu":
            torch.cuda.empty_cache()
