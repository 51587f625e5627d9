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
    header, row, _, path, step = done.stdout.splitlines()
    assert header.split() == ["model", "metric", "best", "defaults", "trials"]
    assert (row.split()[0], row.split()[-1]) == ("transitions", "2")
    assert path == f"Best settings  {best}"
    assert step.endswith(f"compare --models transitions --run {run} --config {best}")
    found = json.loads(invoke(*search, "--json").stdout)
    assert (found["best"], found["models"][0]["trials"]) == (str(best), 2)
    assert invoke("list", "baselines").exit_code == 0
