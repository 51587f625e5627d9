"""`tune`: prints the best value of each model and the file with the best settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("optuna")


def test_the_best_settings_can_be_used_as_a_settings_file(
    invoke, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    search = ["tune", "--models", "transitions", "--trials", 2, "--run", run]
    done = invoke(*search)
    assert done.exit_code == 0, done.output
    best = run / "tuning" / "best.yaml"
    first, last = done.stdout.splitlines()
    assert first.startswith("transitions")
    assert "after 2 trials" in first
    assert last == f"best settings: {best}"
    found = json.loads(invoke(*search, "--json").stdout)
    assert (found["best"], found["models"][0]["trials"]) == (str(best), 2)
    assert invoke("list", "baselines").exit_code == 0
