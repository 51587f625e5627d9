"""Conditions that identify a stage: changed settings, templates and item type."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mllm_msr.config.settings import InferSettings
from mllm_msr.errors import StaleStageError
from mllm_msr.pipeline.context import RunContext, changed, format_seconds, silent
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


def test_the_start_and_end_of_a_stage_are_logged_and_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown: list[str] = []

    @contextmanager
    def progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        shown.append(f"{name} {total}")
        yield lambda _: None
        shown.append(f"end of {name}")

    with caplog.at_level(logging.INFO), RunFolder.open(tmp_path) as run:
        context = RunContext(run, progress)
        for _ in range(2):
            with context.stage("one", {}):
                pass
        with pytest.raises(ValueError, match="broken"), context.stage("two", {}):
            raise ValueError("broken")
    assert shown == ["one None", "end of one", "two None"]
    assert [message.partition(" in ")[0] for message in caplog.messages] == [
        "one started",
        "one done",
        "two started",
    ]


def test_a_finished_stage_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for label in ("", "variant: "):
            with RunFolder.open(tmp_path) as run:
                for _ in range(2):
                    with RunContext(run, label=label).stage("one", {}):
                        pass
    assert [message.partition(" in ")[0] for message in caplog.messages] == [
        "one started",
        "one done",
        "variant: one is already done",
    ]


def test_a_worker_does_not_log_its_stages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO),
        RunFolder.open(tmp_path, worker=True) as run,
        RunContext(run).stage("one", {}) as stage,
    ):
        assert not stage.finished
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (3599.6, "1 h 0 min")],
)
def test_durations_are_rounded_to_the_shown_unit(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_resumed_task_begins_with_the_steps_that_are_done(tmp_path: Path) -> None:
    shown: list[object] = []

    @contextmanager
    def progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        shown.append((name, total))
        yield shown.append

    with RunFolder.open(tmp_path) as run, RunContext(run, progress).resumed("train", 5, 2) as step:
        step(1)
    assert shown == [("train", 5), 2, 1]
    with (
        RunFolder.open(tmp_path) as run,
        RunContext(run, progress).resumed("train", 3, 0, "validation"),
    ):
        assert shown[3:] == [("train validation", 3), 0]
