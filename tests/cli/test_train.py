"""`train`: does nothing if training is disabled."""

from __future__ import annotations

import json
from pathlib import Path


def test_disabled_training_does_nothing(invoke, finished: Path) -> None:
    done = invoke("train", "--run", finished, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {}
    assert not (finished / "adapter").exists()
