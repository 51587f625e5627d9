"""`doctor` on the command line: its table, its JSON and its exit code."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mllm_msr.cli import app
from mllm_msr.pipeline import doctor
from mllm_msr.pipeline.doctor import Finding

FINDINGS = [
    Finding("python", "ok", "3.11"),
    Finding("deepspeed", "absent", "not installed", "pip install 'mllm-msr[deepspeed]'"),
]
BROKEN = Finding("torchvision", "broken", "cannot be imported", "pip uninstall -y torchvision")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the checks find, to be changed by a test."""
    findings = list(FINDINGS)
    monkeypatch.setattr(doctor, "examine", lambda *, deep: iter(findings))
    return findings


def test_an_absent_extra_is_no_failure(found: list[Finding]) -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert "-> pip install 'mllm-msr[deepspeed]'" in done.stdout


def test_something_broken_ends_with_1_and_its_cure(found: list[Finding]) -> None:
    found.append(BROKEN)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "BROKEN  torchvision" in done.stdout
    assert "-> pip uninstall -y torchvision" in done.stdout


def test_json_lists_every_finding(found: list[Finding]) -> None:
    found.append(BROKEN)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["broken"] == 1
    assert [one["state"] for one in report["findings"]] == ["ok", "absent", "broken"]


def test_the_models_of_given_settings_are_examined(found: list[Finding]) -> None:
    settings = ["model.backend=mock", "infer.model.backend=mock"]
    done = CliRunner().invoke(app, ["doctor", *settings, "--json"])
    names = [one["name"] for one in json.loads(done.stdout)["findings"]]
    assert names == ["python", "deepspeed", "model", "infer.model"]
