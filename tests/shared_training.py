"""Fine-tune in two processes, with an interruption, and compare the result with one process.

Usage: python shared_training.py CHECKPOINT OUTPUT OPTIONS

OPTIONS are the settings that differ from `OPTIONS` below, as JSON. Lightning starts the script
again with the same arguments for each additional device.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.ranker.distributed.launch import is_worker
from mllm_msr.ranker.training.checkpoint import load_newest
from mllm_msr.ranker.training.trainer import train
from mllm_msr.ranker.training.validation import auc_per_user

# Gradient clipping and accumulation are enabled, because each strategy implements them differently.
OPTIONS = {
    "rank": 2,
    "alpha": 8,
    "dropout": 0.0,
    "learning_rate": 1e-2,
    "batch_size": 4,
    "accumulate": 2,
    "clip": 0.1,
    "max_steps": 4,
    "precision": "fp32",
    "validate_every": 2,
    "checkpoint_every": 3,
    "early_stopping_patience": 100,
}


class InterruptError(Exception):
    """Simulates an interruption of training."""


def fit(checkpoint: str, output: Path, options: dict[str, Any], *, fail_at: int = 0) -> None:
    """Train on the examples of the ranker's tests; fail in the validation `fail_at` (0: never)."""
    calls = 0

    def metric(labels: Any, scores: Any, users: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 1 + fail_at and fail_at:  # the first call only checks the examples
            raise InterruptError
        return auc_per_user(labels, scores, users)

    path = Path(__file__).with_name("ranker") / "conftest.py"
    spec = importlib.util.spec_from_file_location("ranker_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # The examples below have no images.
    make = module.make_examples.__wrapped__([])
    train(
        make(24),
        # The number of validation batches is odd, so the processes get different numbers.
        make(20, split="validation", seed=1),
        checkpoint=checkpoint,
        output=output,
        settings=TrainSettings(**{**OPTIONS, **options}),
        validation_metric=metric,
        is_worker=is_worker(os.environ),
    )


def require_equal(strategy: str, checkpoint: Path, folder: Path) -> None:
    """Check that two processes, resumed once, give the same losses, state and weights as one."""
    alone, shared = folder / "alone", folder / "shared"
    fit(str(checkpoint), alone, {})
    halves = {"strategy": strategy, "devices": 2, "batch_size": 2}
    done = subprocess.run(
        [sys.executable, __file__, str(checkpoint), str(shared), json.dumps(halves)],
        env={**os.environ, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rows, others = _curve(alone), _curve(shared)
    assert [row["step"] for row in rows] == [1, 2, 2, 3, 4, 4]
    assert rows[0]["loss"] != rows[-2]["loss"]
    for row, other in zip(rows, others, strict=True):
        assert other == pytest.approx(row, rel=1e-4, abs=1e-6)
    one, two = (load_newest(output / "training") for output in (alone, shared))
    assert one is not None
    assert two is not None
    _require_close(one.tensors, two.tensors)
    weights = "adapter/adapter_model.safetensors"
    _require_close(load_file(alone / weights), load_file(shared / weights))


def _curve(output: Path) -> list[dict[str, float]]:
    lines = (output / "training" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


def _require_close(tensors: Any, others: Any) -> None:
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert others[name].dtype == tensor.dtype, name
        assert torch.allclose(tensor, others[name], atol=1e-4), name


def main(checkpoint: str, output: str, options: str) -> None:
    """Train until the last validation fails, then resume from the last saved state.

    The failure ends the other process. Resuming starts a new one, which runs this function from the
    beginning, but has too few validations left to fail.
    """
    try:
        fit(checkpoint, Path(output), json.loads(options), fail_at=2)
    except InterruptError:
        fit(checkpoint, Path(output), json.loads(options))


if __name__ == "__main__":
    main(*sys.argv[1:])
