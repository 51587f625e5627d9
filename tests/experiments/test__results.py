"""Results of an experiment: tables, significance tests and reference values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mllm_msr import experiments
from mllm_msr.config.loading import load_settings
from mllm_msr.evaluation.evaluator import evaluate_scores
from mllm_msr.experiments._results import Results, write_results
from mllm_msr.tables import SCORES


def scores(strength: float, *, n_users: int = 40) -> pl.DataFrame:
    """Return scores of one positive and ten negatives per user; `strength` favors the positive."""
    rng = np.random.default_rng(0)
    rows = [
        (
            0,
            "uniform",
            f"u{user}",
            f"i{item}",
            int(item == 0),
            rng.normal() + strength * (item == 0),
        )
        for user in range(n_users)
        for item in range(11)
    ]
    return pl.DataFrame(rows, schema=dict(SCORES), orient="row")


@pytest.fixture(scope="module")
def results() -> Results:
    experiment = experiments.find("figure4")
    settings = load_settings("default", [], environment={})
    strengths = {
        "mllm_msr": 2.0,
        "mllm_msr_direct": 1.9,
        "mllm_msr_text_only": 0.0,
        "zero_shot": -1.0,
    }
    evaluation = evaluate_scores(
        {name: scores(strength) for name, strength in strengths.items()}, n_resamples=200
    )
    return Results(
        systems=experiment.systems(settings),
        evaluation=evaluation,
        per_user=evaluation.per_user.with_columns(seed=pl.lit(0)),
        seeds=(0,),
        data_seeds=False,
        settings=settings,
        model="a model",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, results: Results) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_results(experiments.find("figure4"), results, folder)
    return folder


def test_the_page_shows_the_values_of_the_json_file(folder: Path) -> None:
    page = (folder / "figure4.md").read_text()
    record = json.loads((folder / "figure4.json").read_text())
    cell = record["systems"][0]["results"]["uniform"]["auc"]
    shown = f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"
    assert f"| MLLM-MSR | {shown} |" in page
    assert "| random order | 0.500 |" in page
    assert "Test users: 40." in page
    assert "![" in page
    assert "(figure4.svg)" in page


def test_differences_are_those_of_the_first_system_with_their_significance(folder: Path) -> None:
    page = (folder / "figure4.md").read_text()
    lines = [line for line in page.splitlines() if line.endswith("significant |")]
    cells = [line.strip("| ").split(" | ") for line in lines]
    assert [row[3] for row in cells] == ["not significant", "significant", "significant"]
    assert [row[5] for row in cells] == ["not significant", "significant", "significant"]
    # Three comparisons of the first system, six pairs of systems.
    assert [float(row[4]) / float(row[2]) for row in cells[1:]] == pytest.approx([2.0] * 2, abs=0.1)
    # The first system is the best one, so all of its differences are positive.
    assert all(line.split(" | ")[1].startswith("+") for line in lines)


def test_the_page_warns_of_the_papers_protocol(folder: Path) -> None:
    page = (folder / "figure4.md").read_text()
    assert "the target is not the user's next item" in page
    assert "prints no numbers" in page


def test_an_experiment_without_a_claim_has_no_section_on_the_paper(
    tmp_path: Path, results: Results
) -> None:
    experiment = replace(experiments.find("figure4"), claim="", caveats=("A caveat.",))
    write_results(experiment, results, tmp_path)
    page = (tmp_path / "figure4.md").read_text()
    assert "paper" not in page
    assert page.endswith(".svg)\n\nA caveat.\n")


def test_the_figure_is_an_svg_and_a_png(folder: Path) -> None:
    assert (folder / "figure4.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = (folder / "figure4.svg").read_text()
    for part in ("MLLM-MSR_T (text-only preferences)", "Uniform negatives", "HR@5"):
        assert part in text
    assert "Popularity negatives" not in text
