"""Shared options: settings in a command's help, the executor, and lists of names."""

from __future__ import annotations

import re

import pytest

from mllm_msr.cli._options import split_names, with_executor
from mllm_msr.errors import UsageError


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        ("infer", "In the groups model, executor, infer."),
        ("check", "In the groups general, data, images."),
        ("evaluate", "In the group evaluate."),
    ],
)
def test_help_names_the_groups_of_the_settings(invoke, command: str, groups: str) -> None:
    text = invoke(command, "--help").stdout
    assert groups in text
    assert "mllm-msr list settings GROUP\n" in text


def test_the_help_of_run_names_all_groups_of_the_pipeline(invoke) -> None:
    text = " ".join(invoke("run", "--help").stdout.split())
    assert (
        "In the groups general, data, images, prompts, model, executor, align, summarize," in text
    )
    assert "retrieve" not in text
    assert "serve" not in text


def test_the_help_of_demo_lists_the_values_of_its_preset(invoke) -> None:
    text = " ".join(invoke("demo", "--help").stdout.split())
    assert "data.run_folds=[0] default: null" in text
    assert "train.rank=16 default: 8" in text
    assert "evaluate" not in text.partition("differ from the defaults")[2]
    assert "list settings GROUP --preset demo" in text


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("demo --port 9000", "--port 9000 is given, but nothing is served. Add --serve"),
        ("export --adapter out --public", "--public is given, but nothing is uploaded. Add --push"),
        ("recommend --history item1 --strict", "--strict checks a user, but --history is given"),
        ("status one --run two", "Two run folders are given, one and two"),
        (
            "evaluate --out file.json",
            "--out file.json is for the metrics of score files, but there",
        ),
    ],
)
def test_options_without_an_effect_are_rejected(fail, arguments: str, problem: str) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)):
        fail(*arguments.split())


@pytest.mark.parametrize("command", ["run", "demo", "compare", "experiment", "recommend"])
def test_help_fits_a_terminal(invoke, command: str) -> None:
    lines = invoke(command, "--help").stdout.splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80


def test_the_executor_option_changes_a_setting() -> None:
    assert with_executor(["train.rank=4"], "ray") == ["train.rank=4", "executor.name=ray"]
    assert with_executor(None, None) is None


def test_names_are_split_at_commas_and_duplicates_dropped() -> None:
    assert split_names(" sasrec, hybrid,,sasrec ") == ["sasrec", "hybrid"]
    assert split_names(" , ") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "dataset=demo", "--run", ""),
        ("report", "--run= "),
        ("recommend", "--config", ""),
        ("evaluate", "--candidates", "c.csv", "--scores", ""),
        ("update", ""),
        ("pull", "file:///somewhere", ""),
        ("push", "", "file:///somewhere"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(invoke, arguments, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    if "--config" not in arguments:
        assert "The path is empty. Give a path" in result.stderr
    assert not list(tmp_path.iterdir())
