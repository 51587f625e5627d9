"""Budgets of a run against its estimate: warnings, and no estimate without a budget."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.pipeline.cost import budgets, estimate
from mllm_msr.pipeline.pipeline import Pipeline
from worlds import settings, write_files


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_files(tmp_path / "raw", n_users=40, n_items=40)


def test_a_run_warns_if_it_exceeds_its_budget(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = ("plan.budget_tokens=10", "plan.budget_hours=1", "plan.sample=5")
    with (
        caplog.at_level(logging.WARNING),
        Pipeline.open(
            tmp_path / "run", load_settings("default", settings(data, *limits))
        ) as pipeline,
    ):
        pipeline.run_until("summarize")
    assert "is estimated to exceed plan.budget_tokens=10" in caplog.text
    assert "Cannot check plan.budget_hours=1 without a rate" in caplog.text


def test_without_a_budget_nothing_is_estimated(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(estimate, "plan")
    with Pipeline.open(tmp_path / "run", load_settings("default", settings(data))) as pipeline:
        pipeline.run_stage("prepare")
        assert budgets.warnings(pipeline.context, pipeline.settings) == []
