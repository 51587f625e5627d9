"""Training shared by two processes: the one-process loss curve, fold after fold, by one setting."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import worlds
from mllm_msr.config.loading import load_settings
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.storage import manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = [
    "data.run_folds=[0, 1]",
    "train.enabled=true",
    "summarize.modalities=[text]",
    "train.rank=2",
    "train.dropout=0",
    "train.precision=fp32",
    "train.learning_rate=1e-2",
    "train.max_steps=4",
    "train.validate_every=2",
    "train.checkpoint_every=2",
]


def start(settings: list[str], run: Path, **variables: str) -> subprocess.Popen[str]:
    """Fine-tune by the command."""
    return subprocess.Popen(
        [sys.executable, "-m", "mllm_msr", "train", *settings, "--run", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Loopback by number: a machine's own name need not resolve.
        env={**os.environ, "MASTER_ADDR": "127.0.0.1", **variables},
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What a process has printed when it ended well."""
    printed, said = process.communicate()
    assert process.returncode == 0, said
    return printed


def curve(folder: Path, fold: int) -> list[dict[str, Any]]:
    log = (folder / f"folds/{fold}/training/log.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in log.splitlines()]
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def common(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Callable[[str], Path]
) -> list[str]:
    """Settings of all runs here."""
    data = worlds.write_files(tmp_path_factory.mktemp("world") / "data")
    scripted = [text for text in worlds.settings(data) if text.startswith("model.")]
    settings = [text for text in worlds.settings(data, *SETTINGS) if text not in scripted]
    settings += [f"{stage}.{text}" for stage in ("summarize", "infer") for text in scripted]
    return [
        *settings,
        "model.backend=huggingface",
        f"model.checkpoint={tiny_checkpoint('llama')}",
    ]


@pytest.fixture(scope="module")
def untrained(common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that has come as far as training."""
    folder = tmp_path_factory.mktemp("runs") / "untrained"
    with Pipeline.open(folder, load_settings("default", common, environment={})) as pipeline:
        pipeline.run_until("infer")
    return folder


@pytest.fixture(scope="module")
def alone(common: list[str], untrained: Path) -> Path:
    """The run folder that one process has trained."""
    folder = untrained.with_name("alone")
    shutil.copytree(untrained, folder)
    settings = load_settings("default", [*common, "train.batch_size=4"], environment={})
    with Pipeline.open(folder, settings) as pipeline:
        pipeline.run_until("train")
    return folder


def require_equal(shared: Path, alone: Path) -> None:
    """The loss curve of one process, and its weights, in both folds."""
    assert {"train/0", "train/1"} <= manifest.load(shared).keys()
    for fold in (0, 1):
        rows, others = curve(alone, fold), curve(shared, fold)
        assert len(rows) == 4 + 2
        assert rows[0]["loss"] != rows[-2]["loss"]
        for row, other in zip(rows, others, strict=True):
            assert row == pytest.approx(other, rel=1e-4, abs=1e-6)
    # The weights as well, not only what was logged on the way.
    weights, others = (
        load_file(folder / "folds/1/adapter/adapter_model.safetensors")
        for folder in (alone, shared)
    )
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.allclose(tensor, others[name], atol=1e-4), name


def test_two_processes_give_the_loss_curve_of_one(
    common: list[str], untrained: Path, alone: Path
) -> None:
    shared = untrained.with_name("shared")
    shutil.copytree(untrained, shared)
    two = [*common, "train.batch_size=2", "train.strategy=ddp", "train.devices=2"]
    printed = ended(start(two, shared))
    # The follower says nothing: what the command prints, it prints once.
    assert printed.count("train/1") == 1
    require_equal(shared, alone)


def test_two_machines_give_the_loss_curve_of_one(
    common: list[str], untrained: Path, alone: Path
) -> None:
    """Two commands with the variables that torchrun gives them on machines of one device."""
    shared = untrained.with_name("machines")
    shutil.copytree(untrained, shared)
    two = [*common, "train.batch_size=2", "train.strategy=ddp", "train.nodes=2", "train.devices=1"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "2"}
    variables |= {"MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
    follower, leader = (
        start(two, shared, **variables, RANK=rank, GROUP_RANK=rank) for rank in ("1", "0")
    )
    assert ended(leader).count("train/1") == 1
    assert not ended(follower)
    require_equal(shared, alone)
