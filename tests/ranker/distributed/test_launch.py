"""Ranks of distributed training, and that workers write nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import worlds
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import RunFolderError, SettingsError, TrainingError
from mllm_msr.pipeline import stage_io
from mllm_msr.pipeline.context import RunContext
from mllm_msr.pipeline.pipeline import STAGES, Pipeline
from mllm_msr.ranker.distributed.launch import (
    is_worker,
    launched_by_torchrun,
    process_group,
    require_launcher,
    temporary_process_group,
)
from mllm_msr.storage.run_folder import RunFolder

# Environment that torchrun gives a process on the second of two machines with two devices each.
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, True),
        (TORCHRUN | {"RANK": "0"}, False),
        (TORCHRUN | {"RANK": "2"}, True),
        (TORCHRUN | {"RANK": "1", "LOCAL_RANK": "1"}, True),
    ],
)
def test_all_ranks_but_zero_are_workers(variables: dict[str, str], expected: bool) -> None:
    assert is_worker(variables) is expected


def test_a_single_process_under_torchrun_is_not_distributed() -> None:
    assert launched_by_torchrun(TORCHRUN)
    assert not launched_by_torchrun(TORCHRUN | {"WORLD_SIZE": "1"})
    assert not launched_by_torchrun({"WORLD_SIZE": "4"})


def test_environment_is_restored_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    before = dict(os.environ)
    with temporary_process_group():
        os.environ |= {"LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "elsewhere"}
    assert dict(os.environ) == before


def test_other_launchers_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(TrainingError, match=r"launcher other than torchrun \(WORLD_SIZE=4\)"):
        require_launcher(1, "auto")


def test_several_machines_need_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    require_launcher(1, 2)
    with pytest.raises(
        SettingsError,
        match=r"nodes=2 needs torchrun\. Start 'torchrun --nnodes=2 \.\.\. -m -- mllm",
    ):
        require_launcher(2, "auto")


@pytest.mark.parametrize(("nodes", "devices"), [(1, "auto"), (1, 2), (4, "auto"), (2, 4)])
def test_settings_must_match_torchrun(
    monkeypatch: pytest.MonkeyPatch, nodes: int, devices: Any
) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    require_launcher(2, 2)
    require_launcher(2, "auto")
    with pytest.raises(SettingsError, match="started 4 processes, 2 of them on this machine"):
        require_launcher(nodes, devices)


def test_announcements_without_torchrun_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with process_group() as group:
        group.announce_fold(0)
        group.announce_fold(None)


def test_worker_joins_the_current_fold_and_exits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = worlds.write_files(tmp_path / "data")
    settings = load_settings("default", worlds.settings(data, "train.enabled=true"), environment={})
    joined: list[tuple[int, bool]] = []

    def train_fold(_: object, fold: int, *, is_worker: bool) -> dict[str, float]:
        joined.append((fold, is_worker))
        return {}

    with Pipeline.open(tmp_path / "run", settings) as rank_zero:
        rank_zero.run_until("infer")
        with rank_zero.run.stage("train/0"):
            pass
        before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
        monkeypatch.setenv("LOCAL_RANK", "1")
        monkeypatch.setattr(stage_io, "_train_fold", train_fold)
        with (
            Pipeline.open(tmp_path / "run", settings, force=True) as worker,
            pytest.raises(SystemExit) as ended,
        ):
            worker.run_all()
        assert ended.value.code == 0
        assert joined == [(1, True)]
        assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before


def test_worker_cannot_write(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as rank_zero, RunFolder.open(tmp_path, worker=True) as worker:
        with rank_zero.stage("done"):
            pass
        with worker.stage("done", settings={"other": 1}) as stage:
            assert stage.finished
        with (
            worker.stage("open") as stage,
            pytest.raises(RunFolderError, match="opened read-only"),
        ):
            stage.write_text("a.txt", "text")
        assert list(rank_zero.stages) == ["done"]


def test_worker_skips_all_stages_but_training(tmp_path: Path) -> None:
    tmp_path.joinpath("run").mkdir()
    run = RunFolder.open(tmp_path / "run", worker=True)
    settings = load_settings("demo", environment={})
    pipeline = Pipeline(RunContext(run), settings)
    for name in STAGES:
        if name != "train":
            pipeline.run_stage(name)
    assert not list((tmp_path / "run").iterdir())


def test_rank_zero_finishes_first(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(
        "import os, pathlib, time\n"
        "import torch\n"
        "from mllm_msr.ranker.distributed.launch import process_group, rank_zero_first\n"
        "file = pathlib.Path(__file__).with_suffix('.txt')\n"
        "with process_group(), rank_zero_first():\n"
        "    if os.environ['RANK'] == '0':\n"
        "        time.sleep(1)\n"
        "        file.write_text('done')\n"
        "    assert file.exists()\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, **TORCHRUN, **address, "WORLD_SIZE": "2", "RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    """A thread of Gloo that runs while the interpreter shuts down can abort the process."""
    script = tmp_path / "group.py"
    script.write_text(
        "import pathlib\n"
        "from mllm_msr.ranker.distributed.launch import temporary_process_group\n"
        "def threads():\n"
        "    tasks = pathlib.Path('/proc/self/task').glob('*/comm')\n"
        "    return sorted(name for name in (p.read_text() for p in tasks) if 'gloo' in name)\n"
        "with temporary_process_group():\n"
        "    import torch\n"
        "    store = pathlib.Path(__file__).with_suffix('.store').as_uri()\n"
        "    torch.distributed.init_process_group('gloo', store, rank=0, world_size=1)\n"
        "    torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))\n"
        "    assert threads()\n"
        "assert not torch.distributed.is_initialized()\n"
        "assert not threads(), threads()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
