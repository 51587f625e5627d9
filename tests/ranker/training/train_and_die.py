"""Fine-tune in a separate process that kills itself at the n-th validation (0: never).

Usage: python train_and_die.py CHECKPOINT OUTPUT N
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mllm_msr.ranker.training.trainer import train
from mllm_msr.ranker.training.validation import auc_per_user


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(checkpoint: str, output: str, fatal: int) -> None:
    """Train like `test_trainer.run`."""
    calls = 0

    def metric(labels: Any, scores: Any, users: Any) -> float:
        nonlocal calls
        calls += 1
        if fatal and calls == 1 + fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return auc_per_user(labels, scores, users)

    here = Path(__file__).parent
    # These examples have no images, so the fixture needs none.
    make = _module(here.parent / "conftest.py").make_examples.__wrapped__([])
    train(
        make(24),
        make(16, split="validation", seed=1),
        checkpoint=checkpoint,
        output=Path(output),
        settings=_module(here / "test_trainer.py").SETTINGS,
        validation_metric=metric,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
