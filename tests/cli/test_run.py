"""`run`: runs every stage and prints the metrics."""

from __future__ import annotations

import json
from pathlib import Path


def test_it_prints_the_metrics_and_the_path_of_the_report(invoke, finished: Path) -> None:
    done = invoke("run", "--run", finished)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Uniform negatives, 12 users")
    assert {line.split()[0] for line in lines[2:4]} == {"Zero-shot", "Popularity"}
    assert f"Report  {finished / 'report.html'}" in lines


def test_json_contains_the_metrics(invoke, finished: Path) -> None:
    result = json.loads(invoke("run", "--run", finished, "--json").stdout)
    assert result["run"] == str(finished)
    assert set(result["metrics"]) == {"zero_shot", "popularity"}
    assert result["metrics"] == json.loads((finished / "metrics.json").read_text())


def test_it_shows_what_was_understood_of_the_data_on_stderr(invoke, finished: Path) -> None:
    done = invoke("run", "--run", finished)
    assert "time span" in done.stderr
    assert "time span" not in done.stdout


def test_every_stage_is_named_once(invoke, finished: Path) -> None:
    lines = invoke("run", "--run", finished).stderr.splitlines()
    done = [line.split()[1] for line in lines if line.endswith("is already done")]
    assert done[0] == "prepare"
    assert len(done) == len(set(done))


def test_quiet_prints_only_the_results(invoke, finished: Path) -> None:
    done = invoke("run", "--run", finished, "--quiet")
    assert done.stderr == ""
    assert done.stdout.startswith("Uniform negatives")
    assert invoke("--quiet", "run", "--run", finished).stderr == ""
