"""Shared options: settings in a command's help, the executor, and lists of names."""

from __future__ import annotations

import pytest

from mllm_msr.cli._options import split_names, with_executor


@pytest.mark.parametrize(
    ("command", "sections"),
    [("infer", {"model", "executor", "infer"}), ("serve", {"retrieve", "serve"})],
)
def test_help_lists_the_settings_that_a_command_reads(invoke, command, sections) -> None:
    text = invoke(command, "--help").stdout
    _, _, listed = text.partition("Settings (key=value, with their defaults):")
    keys = [line.split("=")[0].strip() for line in listed.splitlines() if line[:3].strip()]
    assert {key.rpartition(".")[0] for key in keys} == sections


def test_the_help_of_run_lists_all_settings_of_the_pipeline(invoke) -> None:
    text = invoke("run", "--help").stdout
    for setting in ("dataset=demo", "images.download=false", "train.rank=8", "plan.pilot=0"):
        assert setting in text
    assert "serve.state" not in text


def test_the_help_of_demo_lists_the_values_of_its_preset(invoke) -> None:
    text = invoke("demo", "--help").stdout
    for setting in ("data.run_folds=[0]", "train.rank=16", "evaluate.n_resamples=2000"):
        assert setting in text
    assert "train.rank=8" not in text


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
