"""Conditions that identify a stage: changed settings, templates and item type."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.config.settings import InferSettings
from mllm_msr.errors import StaleStageError
from mllm_msr.pipeline.context import RunContext, changed, silent
from mllm_msr.storage.run_folder import RunFolder


def test_only_changed_settings_are_returned() -> None:
    assert changed(InferSettings()) == {}
    section = InferSettings(block_size=5, words=40)
    assert changed(section, "infer.") == {"infer.block_size": 5, "infer.words": 40}
    assert changed(section, include=["block_size"]) == {"block_size": 5}
    assert changed(section, exclude=["words"]) == {"block_size": 5}


def test_the_item_type_is_recorded_only_with_templates(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        context = RunContext(run)
        with context.stage("plain", {"k": 1}, item_type="film"):
            pass
        with context.stage("asks", {}, prompt_templates=["recommend"], item_type="film"):
            pass
        assert run.stages["plain"]["settings"] == {"k": 1}
        assert run.stages["asks"]["settings"] == {"item_type": "film"}
        assert set(run.stages["asks"]["templates"]) == {"recommend"}


def test_force_runs_stale_stages_again(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        with RunContext(run).stage("one", {"k": 1}):
            pass
        with pytest.raises(StaleStageError, match="'one'"), RunContext(run).stage("one", {"k": 2}):
            pass
        with RunContext(run, silent, force=True).stage("one", {"k": 2}) as stage:
            assert not stage.finished
