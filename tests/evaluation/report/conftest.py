"""Fixtures of the report: the arguments of a small run, and its files."""

from __future__ import annotations

import pytest

import report_runs
from mllm_msr.evaluation.report.report import write_report


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return report_runs.make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def written(run, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report"), **run)
