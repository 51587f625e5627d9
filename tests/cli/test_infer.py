"""`infer`: writes the preferences of a summarized run."""

from __future__ import annotations

import json
from pathlib import Path


def test_it_writes_preferences(invoke, settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for stage in ("prepare", "summarize"):
        invoke(stage, "--run", run, *settings)
    done = invoke("infer", "--run", run, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["infer"]["users"] == 12
    assert (run / "preferences.parquet").is_file()
