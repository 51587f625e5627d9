"""`train`: does nothing in a run that only uses the zero-shot ranker."""

from __future__ import annotations

import json
from pathlib import Path


def test_without_training_there_is_nothing_to_do(invoke, finished: Path) -> None:
    done = invoke("train", "--run", finished, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {}
    assert not (finished / "adapter").exists()
