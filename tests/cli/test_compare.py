"""`compare`, `tune` and `experiment` from the command line: tables, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mock_runs
from mllm_msr.cli import app
from mllm_msr.errors import UnknownNameError, UsageError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run folder that was prepared, and the settings that it was prepared under."""
    folder = tmp_path_factory.mktemp("cli")
    settings = mock_runs.overrides(mock_runs.world(folder / "data"), "report.case_studies=0")
    done = CliRunner().invoke(app, ["prepare", "--run", str(folder / "run"), *settings])
    assert done.exit_code == 0, done.output
    return folder / "run", settings


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_a_search_and_a_comparison_with_what_it_found(run: tuple[Path, list[str]]) -> None:
    pytest.importorskip("optuna")
    folder, _ = run
    done = invoke("tune", "--models", "transitions", "--trials", "2", "--run", str(folder))
    assert done.exit_code == 0, done.output
    assert "after 2 trials" in done.output
    best = folder / "tuning" / "best.yaml"
    done = invoke(
        "compare", "--models", "transitions, popularity", "--run", str(folder),
        "--config", str(best), "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["metrics"]) == ["transitions", "popularity"]
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    assert "transitions.smoothing" in stages["score/transitions"]["settings"]
    assert (folder / "report.html").is_file()


def test_without_names_the_baselines_of_the_settings_are_compared(
    run: tuple[Path, list[str]],
) -> None:
    done = invoke("compare", "--run", str(run[0]), "--json", "score.baselines=[popularity]")
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["metrics"]) == ["popularity"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["compare", "--models", "popularty"], UnknownNameError, "received popularty"),
        (["compare", "--models", " , "], UnknownNameError, "received none"),
        (["experiment", "figure4", "--seeds", "1,x"], UsageError, r"--seeds 0,1,2"),
        (["experiment", "figure4", "--rows", "mllm_msr,mgat"], UnknownNameError, "received mgat"),
        (["experiment", "figure4", "--rows", ","], UnknownNameError, "received none"),
        (["experiment", "figure44"], UnknownNameError, "did you mean 'figure4'"),
    ],
)
def test_wrong_requests_are_refused(
    run: tuple[Path, list[str]], arguments: list[str], error: type[Exception], message: str
) -> None:
    done = invoke(*arguments, "--run", str(run[0]))
    assert done.exit_code != 0
    assert isinstance(done.exception, error)
    with pytest.raises(error, match=message):
        raise done.exception


def test_an_experiment_prints_its_page(run: tuple[Path, list[str]]) -> None:
    folder, _ = run
    done = invoke("experiment", "figure4", "--run", str(folder))
    assert done.exit_code == 0, done.output
    page = (folder / "experiments" / "figure4" / "figure4.md").read_text()
    assert done.stdout.startswith(page)
    assert "| MLLM-MSR R (direct inference) |" in page


def test_experiments_are_listed() -> None:
    done = invoke("list", "experiments", "--json")
    assert {"figure4", "table3"} <= set(json.loads(done.stdout)["experiments"])
