"""`score`: writes one table of scores per model."""

from __future__ import annotations

import json
from pathlib import Path


def test_further_models_can_be_scored(invoke, settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    invoke("prepare", "--run", run, *settings)
    done = invoke("score", "--run", run, "--json", "score.zero_shot=false")
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)) == ["score/popularity"]
    assert (run / "scores" / "popularity.parquet").is_file()
    more = invoke("score", "--run", run, "--json", "score.baselines=[popularity, transitions]")
    assert list(json.loads(more.stdout)) == ["score/popularity", "score/transitions"]
