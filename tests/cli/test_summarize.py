"""`summarize`: writes the summaries of a prepared run."""

from __future__ import annotations

import json
from pathlib import Path


def test_it_writes_summaries(invoke, settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    invoke("prepare", "--run", run, *settings)
    done = invoke("summarize", "--run", run, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["summarize"]["items"] == 30
    assert (run / "summaries.parquet").is_file()
