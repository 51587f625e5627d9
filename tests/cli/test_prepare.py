"""`prepare`: creates a run folder with its tables and settings."""

from __future__ import annotations

import json
from pathlib import Path


def test_it_creates_a_run_folder(invoke, settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = invoke("prepare", "--run", run, "--json", *settings)
    assert done.exit_code == 0, done.output
    outputs = json.loads(done.stdout)["prepare"]["outputs"]
    assert {"interactions", "items", "splits", "candidates"} <= {Path(o).stem for o in outputs}
    assert (run / "config.yaml").is_file()
    assert not (run / "summaries.parquet").exists()


def test_a_warning_is_shown_once(invoke, settings: list[str], tmp_path: Path) -> None:
    warning = "15 of 30 items (50%) have no image."
    for command, quiet in (("prepare", []), ("prepare", ["-q"]), ("run", [])):
        run = tmp_path / "-".join([command, *quiet])
        done = invoke(command, *quiet, "--run", run, *settings)
        assert done.exit_code == 0, done.output
        assert done.output.count(warning) == 1
        # Here, the stage is only skipped.
        again = invoke(command, *quiet, "--run", run)
        assert again.output.count(warning) == 1


def test_it_prints_what_was_understood_of_the_data(invoke, finished: Path) -> None:
    done = invoke("prepare", "--run", finished)
    assert done.exit_code == 0, done.output
    subjects = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert {"interactions", "ids", "images", "filters"} <= {*subjects}
