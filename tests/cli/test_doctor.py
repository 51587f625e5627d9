"""`doctor`: the table, the JSON output and the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mllm_msr.pipeline import doctor
from mllm_msr.pipeline.doctor import Finding

BROKEN = Finding("torchvision", "broken", "cannot be imported", "pip uninstall -y torchvision")


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Replace the checks with a list of findings that a test can change."""
    found = [
        Finding("python", "ok", "3.11"),
        Finding("deepspeed", "absent", "not installed", "pip install 'mllm-msr[deepspeed]'"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda *, deep: iter(found))
    return found


def test_a_missing_optional_package_is_not_an_error(invoke, findings: list[Finding]) -> None:
    done = invoke("doctor")
    assert done.exit_code == 0
    assert "-> pip install 'mllm-msr[deepspeed]'" in done.stdout
    assert done.stdout.endswith("Nothing is broken. Packages with '-' are optional.\n")


def test_a_broken_package_sets_exit_code_1_and_prints_its_fix(
    invoke, findings: list[Finding]
) -> None:
    findings.append(BROKEN)
    done = invoke("doctor")
    assert done.exit_code == 1
    assert "BROKEN  torchvision" in done.stdout
    assert "-> pip uninstall -y torchvision" in done.stdout
    assert "Repair what is BROKEN, with the commands below it." in done.stdout


def test_json_contains_every_finding(invoke, findings: list[Finding]) -> None:
    findings.append(BROKEN)
    done = invoke("doctor", "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["broken"] == 1
    assert [finding["state"] for finding in report["findings"]] == ["ok", "absent", "broken"]
    assert report["findings"][2]["fix"] == "pip uninstall -y torchvision"


def test_models_are_checked_if_settings_are_given(invoke, findings: list[Finding]) -> None:
    done = invoke("doctor", "model.backend=mock", "infer.model.backend=mock", "--json")
    names = [finding["name"] for finding in json.loads(done.stdout)["findings"]]
    assert names == ["python", "deepspeed", "model", "infer.model"]


def test_a_model_of_this_process_is_tried_unless_the_check_is_quick(
    invoke, findings: list[Finding], tiny_checkpoint
) -> None:
    settings = ["model.backend=huggingface", f"model.checkpoint={tiny_checkpoint('llama')}"]
    done = invoke("doctor", *settings, "--json")
    names = [finding["name"] for finding in json.loads(done.stdout)["findings"]]
    assert names[2:5] == ["model", "model: class", "model: template"]
    assert names[-1] == "model: training"
    done = invoke("doctor", *settings, "--json", "--quick")
    names = [finding["name"] for finding in json.loads(done.stdout)["findings"]]
    assert names == ["python", "deepspeed", "model"]


def test_findings_are_printed_as_they_arrive(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*, deep: bool) -> Iterator[Finding]:
        yield Finding("python", "ok", "3.11")
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", interrupted)
    done = invoke("doctor")
    assert "ok      python" in done.stdout


def test_the_model_that_is_checked_is_named_on_stderr(invoke, findings: list[Finding]) -> None:
    done = invoke("doctor", "model.backend=mock", "--json")
    assert "checking model (mock) ..." in done.stderr
    assert json.loads(done.stdout)["broken"] == 0
