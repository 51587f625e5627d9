"""What an experiment writes: the table, the tests and the reference, as they were measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mllm_msr import experiments
from mllm_msr.config.loading import load_settings
from mllm_msr.evaluation.evaluator import evaluate_scores
from mllm_msr.experiments._results import Findings, write_results
from mllm_msr.tables import SCORES


def scored(strength: float, *, n_users: int = 40) -> pl.DataFrame:
    """Scores of one positive and ten negatives per user; the positive is ahead by `strength`."""
    rng = np.random.default_rng(0)
    rows = [
        (0, "uniform", f"u{user}", f"i{at}", int(at == 0), rng.normal() + strength * (at == 0))
        for user in range(n_users)
        for at in range(11)
    ]
    return pl.DataFrame(rows, schema=dict(SCORES), orient="row")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    experiment = experiments.find("figure4")
    settings = load_settings("default", [], environment={})
    strengths = {
        "mllm_msr": 2.0,
        "mllm_msr_direct": 1.9,
        "mllm_msr_text_only": 0.0,
        "zero_shot": -1.0,
    }
    evaluation = evaluate_scores(
        {name: scored(strength) for name, strength in strengths.items()}, n_resamples=200
    )
    findings = Findings(
        rows=experiment.rows(settings),
        evaluation=evaluation,
        per_user=evaluation.per_user.with_columns(seed=pl.lit(0)),
        seeds=(0,),
        worlds=False,
        settings=settings,
        model="a model",
    )
    write_results(experiment, findings, folder)
    return folder


def test_the_page_shows_what_was_measured(folder: Path) -> None:
    page = (folder / "figure4.md").read_text()
    record = json.loads((folder / "figure4.json").read_text())
    cell = record["rows"][0]["results"]["uniform"]["auc"]
    shown = f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"
    assert f"| MLLM-MSR | {shown} |" in page
    assert "| random order | 0.500 |" in page
    assert "Test users: 40." in page
    assert "![" in page
    assert "(figure4.svg)" in page


def test_differences_are_the_first_rows_and_said_to_be_significant_or_not(folder: Path) -> None:
    page = (folder / "figure4.md").read_text()
    lines = [line for line in page.splitlines() if line.endswith("significant |")]
    assert [line.split(" | ")[-1] for line in lines] == [
        "not significant |", "significant |", "significant |"
    ]  # fmt: skip
    # The strongest row is ahead of all others, whichever of the two was named first.
    assert all(line.split(" | ")[1].startswith("+") for line in lines)


def test_the_papers_protocol_is_told_beside_every_result(folder: Path) -> None:
    page = (folder / "figure4.md").read_text()
    assert "the target is not the user's next item" in page
    assert "prints no numbers" in page


def test_the_figure_is_drawn_twice(folder: Path) -> None:
    assert (folder / "figure4.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    drawn = (folder / "figure4.svg").read_text()
    for text in ("MLLM-MSR T (no image summaries)", "Uniform negatives", "HR@5"):
        assert text in drawn
    assert "Popularity negatives" not in drawn
