"""`evaluate`: computes the metrics of a run or of external tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllm_msr.errors import DataError, UsageError


def test_a_run_is_evaluated_with_its_own_settings(invoke, finished: Path) -> None:
    done = invoke("evaluate", "--run", finished, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["run"] == str(finished)


def test_external_tables_are_evaluated(invoke, finished: Path, tmp_path: Path) -> None:
    tables = ["--candidates", finished / "candidates.parquet"]
    tables += ["--scores", finished / "scores/popularity.parquet"]
    done = invoke("evaluate", *tables, "--out", tmp_path / "metrics.json")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "Uniform negatives, 12 users"
    assert lines[2].startswith("Popularity")
    assert lines[-1] == f"All metrics: {tmp_path / 'metrics.json'}"
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert "uniform" in found["popularity"]
    assert json.loads(invoke("evaluate", *tables, "--json").stdout) == found


@pytest.mark.parametrize("option", ["--candidates", "--scores"])
def test_candidates_and_scores_must_be_given_together(fail, tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match=f"only {option} is given"):
        fail("evaluate", option, tmp_path / "table.parquet")


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    path = tmp_path / "candidates.csv"
    path.write_text("user_id,item_id,label\nu,a,1\nu,b,0\n")
    return path


def write_scores(path: Path, first: float) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"user_id,item_id,score\nu,a,{first}\nu,b,0.5\n")
    return path


def test_files_of_the_same_name_are_named_after_their_folders(
    invoke, candidates: Path, tmp_path: Path
) -> None:
    files = [
        write_scores(tmp_path / "A/scores.csv", 1.0),
        write_scores(tmp_path / "B/scores.csv", 0.0),
        write_scores(tmp_path / "B/other.csv", 0.0),
    ]
    options = [option for file in files for option in ("--scores", file)]
    found = json.loads(invoke("evaluate", "--candidates", candidates, *options, "--json").stdout)
    assert {name: cells["external"]["auc"]["mean"] for name, cells in found.items()} == {
        "A/scores": 1.0,
        "B/scores": 0.0,
        "other": 0.0,
    }


@pytest.mark.parametrize("second", ["A/scores.csv", "A/scores@2.csv", "A/scores.tsv"])
def test_files_that_would_overwrite_each_other_are_rejected(
    fail, candidates: Path, tmp_path: Path, second: str
) -> None:
    files = [write_scores(tmp_path / "A/scores.csv", 1.0), write_scores(tmp_path / second, 1.0)]
    options = [option for file in files for option in ("--scores", file)]
    with pytest.raises(UsageError, match="have the same name"):
        fail("evaluate", "--candidates", candidates, *options)


def test_candidates_of_one_class_are_an_error(fail, candidates: Path, tmp_path: Path) -> None:
    candidates.write_text("user_id,item_id,label\nu,a,1\nu,b,1\n")
    scores = write_scores(tmp_path / "A/scores.csv", 1.0)
    with pytest.raises(DataError, match=r"No metric of 'scores' is defined.*1 only label 1"):
        fail("evaluate", "--candidates", candidates, "--scores", scores)
