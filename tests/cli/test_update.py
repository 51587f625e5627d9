"""`update`: adds new interactions to a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def test_the_same_interactions_are_only_added_once(invoke, finished: Path, tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "new.csv"
    shutil.copytree(finished, run)
    file.write_text("user_id,item_id,timestamp\nuser0,item1,999999\n")
    done = invoke("update", file, "--run", run, "--json")
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert (counts["interactions"], counts["users"]) == (1, 1)
    again = json.loads(invoke("update", file, "--run", run, "--json").stdout)
    assert again["interactions"] == 0
