"""`plan` on the command line: a table for people, one JSON object for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllm_msr.cli import app
from worlds import settings, write_files


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("plan") / "raw")


def test_the_table_names_every_stage_and_says_how_it_counted(world: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    done = CliRunner().invoke(app, ["plan", *settings(world, "plan.sample=5"), "--run", run])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == [
        "stage",
        "summarize",
        "infer",
        "score/zero_shot",
    ]
    assert "no rate known for hours" in lines[-2]
    assert lines[-1].endswith("the settings' limits, a ceiling")


def test_json_holds_the_stages_and_what_remains(world: Path, tmp_path: Path) -> None:
    options = settings(world, "plan.sample=5", "plan.prompt_rate=10", "plan.output_rate=10")
    run = str(tmp_path / "run")
    done = CliRunner().invoke(app, ["plan", *options, "--run", run, "--json"])
    found = json.loads(done.stdout)
    assert [stage["stage"] for stage in found["stages"]] == [
        "summarize",
        "infer",
        "score/zero_shot",
    ]
    assert found["remaining"]["hours"] == pytest.approx(
        found["remaining"]["tokens"] / 36000, rel=1e-3
    )
