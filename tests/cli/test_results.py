"""Results of a run as tables: fit 80 columns, sorted, best marked, verdict and next step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mllm_msr.cli._output import print_fitted
from mllm_msr.cli._results import display_path, emit_results, result_tables
from mllm_msr.evaluation.metrics import summary_names
from mllm_msr.evaluation.report import next_steps
from mllm_msr.pipeline.pipeline import Pipeline


def cells(value: float) -> dict[str, Any]:
    cell = {"mean": value, "low": value - 0.1, "high": value + 0.1, "n": 40}
    return dict.fromkeys(summary_names(), cell)


METRICS = {
    "zero_shot": {"uniform": cells(0.6), "popularity": cells(0.5)},
    "mllm_msr": {"uniform": cells(0.7), "popularity": cells(0.65)},
    "mllm_msr_text_only": {"uniform": cells(0.8), "popularity": cells(0.6)},
    "sasrec": {"uniform": cells(0.75), "full": cells(0.7)},
}
RECORD = {
    "negatives": "uniform", "metric": "auc", "first": "sasrec", "second": "mllm_msr",
    "difference": 0.05, "low": -0.03, "high": 0.1, "n": 40, "p_holm": 0.06, "p_main": 0.04,
    "better": 0.5, "worse": 0.4,
}  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], details: dict[str, Any]) -> list[str]:
    for table in result_tables(METRICS, details):
        print_fitted(table)
    return capsys.readouterr().out.splitlines()


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def test_models_are_sorted_and_the_best_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, {"chance": {"uniform": dict.fromkeys(summary_names(), 0.5)}})
    start = lines.index("Uniform negatives, 40 users (* best of its column)")
    assert lines[start + 1].split() == [
        "model",
        "AUC",
        "95%",
        "interval",
        "HR@5",
        "MRR@5",
        "NDCG@5",
    ]
    rows = [line.split() for line in lines[start + 2 : start + 8]]
    assert [row[0] for row in rows if row[-1].rstrip("*").startswith("0.")] == [
        "MLLM-MSR_T", "SASRec", "MLLM-MSR", "Zero-shot", "(random",
    ]  # fmt: skip
    assert rows[0][-5:] == ["0.800*", "0.700-0.900", "0.800*", "0.800*", "0.800*"]
    assert not any("*" in cell for row in rows[1:] for cell in row)


def test_every_line_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    others = [RECORD, *({**RECORD, "first": name} for name in ("zero_shot", "mllm_msr_text_only"))]
    lines = shown(capsys, {"comparisons": others})
    assert max(map(len, lines)) <= 80


def test_each_kind_of_negatives_has_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(capsys, {"comparisons": [RECORD]}))
    assert "MLLM-MSR ranks 3rd of 4 models (AUC 0.700)." in text
    assert "MLLM-MSR ranks 1st of 3 models (AUC 0.650)." in text
    assert "Not ranked: Zero-shot, MLLM-MSR_T (text-only preferences)." in text


def test_the_main_model_is_compared_with_each_other_one(capsys: pytest.CaptureFixture[str]) -> None:
    others = [RECORD, *({**RECORD, "first": name} for name in ("zero_shot", "mllm_msr_text_only"))]
    unplanned = {**RECORD, "second": "zero_shot", "p_main": None}
    lines = shown(capsys, {"comparisons": [*others, unplanned]})
    assert ["SASRec", "uniform", "-0.050", "-0.100", "+0.030", "0.0400", "0.0600"] in map(
        str.split, lines
    )
    assert lines[-1].startswith("p: corrected for the comparisons of this table")
    assert not any("minus" in line for line in shown(capsys, {"comparisons": [RECORD]}))


def test_a_run_ends_with_the_report_and_the_next_command(invoke, finished: Path) -> None:
    lines = invoke("run", "--run", finished).stdout.splitlines()
    assert lines[-2:] == [
        f"Report  {finished / 'report.html'}",
        f"Next    mllm-msr serve --run {finished}",
    ]


def test_serving_is_not_suggested_by_a_command_that_serves(finished: Path, capsys) -> None:
    with Pipeline.open(finished) as pipeline:
        emit_results(pipeline, as_json=False, is_served=True)
    assert capsys.readouterr().out.splitlines()[-1] == f"Report  {finished / 'report.html'}"


def test_advice_is_printed_before_the_report(
    invoke, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def advise(*_: object, **given: object) -> list[str]:
        seen.update(given)
        return ["Use more data: " + "word " * 20]

    assert "Advice" not in invoke("run", "--run", finished).stdout
    monkeypatch.setattr(next_steps, "next_steps", advise)
    lines = invoke("run", "--run", finished).stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("Advice  Use more"))
    assert lines[first + 1].startswith("word")
    assert lines[-2].startswith("Report")
    assert seen["manifest"]["prepare"]["counts"]["users"] > 0
    assert seen["config"]["recommend"]["collaborative"] == "none"


def test_a_time_limit_is_noted(invoke, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    from mllm_msr.storage import manifest

    stages = manifest.load(run)
    stages["score/popularity"]["counts"]["stopped_by_time_limit"] = 1
    manifest.save(run, stages)
    lines = invoke("evaluate", "--run", run).stdout.splitlines()
    assert any(line.startswith("Note    popularity: training was stopped") for line in lines)


def test_the_json_output_has_no_tables(invoke, finished: Path) -> None:
    done = invoke("evaluate", "--run", finished, "--json")
    assert set(json.loads(done.stdout)) == {"run", "report", "metrics", "notes"}


def test_paths_below_the_current_folder_are_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert display_path(tmp_path / "runs" / "a") == "runs/a"
    assert display_path("runs/a") == "runs/a"
    assert display_path("/elsewhere/a") == "/elsewhere/a"
