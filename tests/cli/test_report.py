"""`report`: writes the report of an evaluated run, unless it is finished."""

from __future__ import annotations

import json
from pathlib import Path


def test_a_finished_report_is_kept(invoke, finished: Path) -> None:
    before = (finished / "report.md").read_bytes()
    done = invoke("report", "--run", finished, "--json")
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["report"]["outputs"]) == {"report.html", "report.md"}
    assert (finished / "report.md").read_bytes() == before
