"""Who leads and who follows when several processes train, and that a follower writes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import worlds
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import RunFolderError, SettingsError, TrainingError
from mllm_msr.pipeline.context import Workspace
from mllm_msr.pipeline.pipeline import STAGES, Pipeline
from mllm_msr.pipeline.stages import train
from mllm_msr.ranker.distributed.launch import (
    is_worker,
    process_group,
    require_launcher,
    temporary_process_group,
)
from mllm_msr.storage.run_folder import RunFolder

# What it gives a process on the second of two machines with two devices each.
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
}


@pytest.mark.parametrize(
    ("variables", "follows"),
    [
        ({}, False),
        ({"LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, True),
        (TORCHRUN | {"RANK": "0"}, False),
        (TORCHRUN | {"RANK": "2"}, True),
        (TORCHRUN | {"RANK": "1", "LOCAL_RANK": "1"}, True),
    ],
)
def test_only_a_copy_of_the_command_follows(variables: dict[str, str], follows: bool) -> None:
    assert is_worker(variables) is follows


def test_nothing_of_a_training_is_left_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    before = dict(os.environ)
    with temporary_process_group():
        os.environ |= {"LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "elsewhere"}
    assert dict(os.environ) == before


def test_a_command_under_another_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(TrainingError, match=r"WORLD_SIZE=4\): start it without that launcher"):
        require_launcher(1, "auto")


def test_several_machines_need_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    require_launcher(1, 2)
    with pytest.raises(
        SettingsError, match=r"nodes=2 needs 'torchrun --nnodes=2 \.\.\. -m -- mllm"
    ):
        require_launcher(2, "auto")


@pytest.mark.parametrize(("nodes", "devices"), [(1, "auto"), (1, 2), (4, "auto"), (2, 4)])
def test_torchrun_and_the_settings_say_the_same(
    monkeypatch: pytest.MonkeyPatch, nodes: int, devices: Any
) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    require_launcher(2, 2)
    require_launcher(2, "auto")
    with pytest.raises(SettingsError, match="started 4 processes, 2 of them here"):
        require_launcher(nodes, devices)


def test_a_leader_that_is_alone_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with process_group() as group:
        group.announce_fold(0)
        group.announce_fold(None)


def test_a_follower_joins_the_fold_at_hand_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = worlds.write_files(tmp_path / "data")
    settings = load_settings("default", worlds.settings(data, "train.enabled=true"), environment={})
    joined: list[int] = []

    def fit(work: Workspace, fold: int) -> None:
        joined.append(fold)

    with Pipeline.open(tmp_path / "run", settings) as leader:
        leader.run_until("infer")
        with leader.run.stage("train/0"):
            pass
        before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
        monkeypatch.setenv("LOCAL_RANK", "1")
        monkeypatch.setattr(train, "_fit", fit)
        with (
            Pipeline.open(tmp_path / "run", settings, force=True) as follower,
            pytest.raises(SystemExit) as ended,
        ):
            follower.run_all()
        assert ended.value.code == 0
        assert joined == [1]
        assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before


def test_a_follower_does_nothing_else_and_may_not_write(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as leader, RunFolder.open(tmp_path, worker=True) as follower:
        with leader.stage("done"):
            pass
        with follower.stage("done", settings={"other": 1}) as stage:
            assert stage.finished
        with (
            follower.stage("open") as stage,
            pytest.raises(RunFolderError, match="opened for writing"),
        ):
            stage.write_text("a.txt", "text")
        assert list(leader.stages) == ["done"]


def test_stages_before_and_after_training_are_the_leaders(tmp_path: Path) -> None:
    tmp_path.joinpath("run").mkdir()
    run = RunFolder.open(tmp_path / "run", worker=True)
    settings = load_settings("demo", environment={})
    pipeline = Pipeline(Workspace(run, settings, force=False, progress=lambda *_: None))  # type: ignore[arg-type, return-value]
    for name in STAGES:
        if name != "train":
            pipeline.run_stage(name)
    assert not list((tmp_path / "run").iterdir())
