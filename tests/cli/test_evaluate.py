"""`evaluate`: computes the metrics of a run or of external tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllm_msr.errors import UsageError


def test_a_run_is_evaluated_with_its_own_settings(invoke, finished: Path) -> None:
    done = invoke("evaluate", "--run", finished, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["run"] == str(finished)


def test_external_tables_are_evaluated(invoke, finished: Path, tmp_path: Path) -> None:
    tables = ["--candidates", finished / "candidates.parquet"]
    tables += ["--scores", finished / "scores/popularity.parquet"]
    done = invoke("evaluate", *tables, "--out", tmp_path / "metrics.json")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert "uniform" in found["popularity"]
    assert json.loads(invoke("evaluate", *tables).stdout) == found


@pytest.mark.parametrize("option", ["--candidates", "--scores"])
def test_candidates_and_scores_must_be_given_together(fail, tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match=f"only {option} is given"):
        fail("evaluate", option, tmp_path / "table.parquet")
