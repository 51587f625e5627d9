"""Stage "report": the model whose case studies are shown, and the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

import mock_runs
import worlds
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.pipeline.stages.report import case_study_model


@pytest.mark.parametrize(
    ("scored", "expected"),
    [
        (["zero_shot", "mllm_msr", "popularity"], "mllm_msr"),
        (["zero_shot", "popularity"], "zero_shot"),
        (["sasrec"], "sasrec"),
    ],
)
def test_the_main_model(scored: list[str], expected: str) -> None:
    assert case_study_model(scored) == expected


def test_commands_in_the_report_can_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_runs.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    settings = mock_runs.load(
        worlds.write_files(tmp_path / "data"),
        "train.enabled=true",
        "score.baselines=[popularity, hybrid]",
        "baselines.hybrid.members=[mllm_msr, popularity]",
    )
    with Pipeline.open("runs/shop", settings) as pipeline:
        pipeline.run_until("report")
    report = Path("runs/shop/report.md").read_text(encoding="utf-8")
    # An ensemble with the MLLM calls it once per item, so the setting of the MLLM applies.
    assert " and Hybrid are not ranked, because `score.full_users_mllm` is 0" in report
    assert "--run runs/shop --force score.full_users_mllm=50" in report
    assert "mllm-msr run --run runs/shop --preset" in report
