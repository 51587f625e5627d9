"""`status`: shows what is done in a run, and what is next."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from mllm_msr.errors import RunFolderError
from mllm_msr.storage import manifest
from mllm_msr.storage.run_folder import RunFolder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def states(invoke, run: Path) -> dict[str, str]:
    """Return the state of each stage."""
    found = json.loads(invoke("status", run, "--json").stdout)["stages"]
    return {stage["stage"]: stage["state"] for stage in found}


def test_a_finished_run_has_times_and_the_next_command(invoke, run: Path) -> None:
    done = invoke("status", run)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith(("Report", "Next", "/"))) <= 80
    stages = [line.split()[0] for line in lines[2:] if line[:1].isalpha() and " done " in line]
    assert stages == ["prepare", "summarize", "infer", "score", "evaluate", "report"]
    assert f"Next    mllm-msr serve --run {run}" in lines
    assert any(line.startswith("Total time ") for line in lines)
    assert invoke("status", "--run", run).stdout == done.stdout


def test_models_that_are_not_scored_are_suggested_for_a_comparison(invoke, run: Path) -> None:
    command = "Next    mllm-msr compare --models"
    assert f"{command} item_knn,sasrec --run {run}" in invoke("status", run).stdout
    stages = manifest.load(run)
    stages["score/item_knn"] = stages["score/popularity"]
    manifest.save(run, stages)
    assert f"{command} sasrec,content_knn --run {run}" in invoke("status", run).stdout


def test_a_stage_that_is_switched_off_is_not_missing(invoke, run: Path) -> None:
    assert states(invoke, run)["train"] == "off"


def test_missing_parts_are_named_and_the_run_is_continued(invoke, run: Path) -> None:
    stages = manifest.load(run)
    for name in ("score/popularity", "evaluate", "report"):
        del stages[name]
    manifest.save(run, stages)
    found = states(invoke, run)
    assert (found["score"], found["evaluate"], found["report"]) == ("partly", "open", "open")
    text = invoke("status", run).stdout
    assert "score/popularity is missing." in text
    assert text.splitlines()[-1] == f"Next    mllm-msr run --run {run}"


def test_a_run_in_progress_shows_its_last_message(invoke, run: Path) -> None:
    with RunFolder.open(run):
        (run / "run.log").write_text("first\n2026-01-01 INFO infer 3/9 33%\n")
        text = " ".join(invoke("status", run).stdout.split())
    assert f"Process {os.getpid()} is working in this run: 2026-01-01 INFO infer 3/9 33%" in text
    assert "is working" not in invoke("status", run).stdout


def test_it_changes_nothing(invoke, run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert invoke("status", run).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_mistyped_folder_is_an_error(fail, run: Path) -> None:
    with pytest.raises(RunFolderError, match="Did you mean"):
        fail("status", run.with_name("rum"))


def test_fitted_lists_are_shown_only_if_there_are_some(invoke, run: Path) -> None:
    assert "fit-lists" not in states(invoke, run)
    stages = manifest.load(run)
    stages["fit-lists/0"] = stages["score/popularity"] | {"counts": {"users": 64}}
    manifest.save(run, stages)
    assert states(invoke, run)["fit-lists"] == "done"
    assert "Fitted the lists of fold 0 on 64 validation users" in " ".join(
        invoke("status", run).stdout.split()
    )
