"""`fit-lists`: prints weights, quality by calls and the choice; saves the settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import list_worlds
from mllm_msr.config.run_settings import load_finished_settings
from mllm_msr.errors import RunFolderError, StaleStageError
from mllm_msr.pipeline.pipeline import Pipeline


def test_it_prints_weights_and_budget(
    invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_worlds.install(monkeypatch)
    run = list_worlds.make_run(tmp_path, "retrieve.order=fusion", "retrieve.budget=50")
    options = ["--run", run, "--budget", 20, "--fold", 0, "retrieve.generators=[recent]"]
    done = invoke("fit-lists", *options)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "Fold 0, 12 validation users"
    assert any(line.split()[0] == "recent" for line in lines if line.strip())
    assert [line.split()[0] for line in lines[-8:] if line[:6].strip().isdigit()] == [
        "0", "10", "20"
    ]  # fmt: skip
    assert "Budget: " in done.stdout
    saved = load_finished_settings(run).retrieve
    assert (saved.generators, saved.order, saved.budget) == (("recent",), "auto", None)
    again = invoke("fit-lists", *options, "--json")
    content = json.loads(again.stdout)["folds"]["0"]
    assert (content["users"], content["fold"]) == (12, 0)


def test_a_missing_run_is_named(fail, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="There is no run folder"):
        fail("fit-lists", "--run", tmp_path / "nothing")


def test_settings_of_finished_stages_are_not_replaced(
    fail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_worlds.install(monkeypatch)
    run = list_worlds.make_run(tmp_path, "score.zero_shot=false", "score.baselines=[popularity]")
    with Pipeline.open(run) as pipeline:
        pipeline.run_stage("score")
    before = (run / "config.yaml").read_text(encoding="utf-8")
    with pytest.raises(StaleStageError, match=r"The stage 'score/popularity' .* full_users was"):
        fail("fit-lists", "--run", run, "--fold", 0, "score.full_users=3")
    assert (run / "config.yaml").read_text(encoding="utf-8") == before
