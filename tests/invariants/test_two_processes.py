"""Training in two processes, or on two hosts, gives the losses and weights of one process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import worlds
from mllm_msr.config.loading import load_settings
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.storage import manifest
from two_hosts import two_hosts

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
    """Start the command `train` with additional environment variables."""
    return subprocess.Popen(
        [sys.executable, "-m", "mllm_msr", "train", *settings, "--run", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # An address, because the host name of the machine may not resolve.
        env={**os.environ, "MASTER_ADDR": "127.0.0.1", **variables},
    )


def wait(process: subprocess.Popen[str]) -> str:
    """Wait for a process, check that it succeeds, and return its standard output."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


def curve(folder: Path, fold: int) -> list[dict[str, Any]]:
    log = (folder / f"folds/{fold}/training/log.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in log.splitlines()]
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def common(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Callable[[str], Path]
) -> list[str]:
    """Return the common settings of all runs."""
    data = worlds.write_files(tmp_path_factory.mktemp("world") / "data")
    mock = [text for text in worlds.settings(data) if text.startswith("model.")]
    settings = [text for text in worlds.settings(data, *SETTINGS) if text not in mock]
    settings += [f"{stage}.{text}" for stage in ("summarize", "infer") for text in mock]
    return [
        *settings,
        "model.backend=huggingface",
        f"model.checkpoint={tiny_checkpoint('llama')}",
    ]


@pytest.fixture(scope="module")
def untrained(common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder that is ready for training."""
    folder = tmp_path_factory.mktemp("runs") / "untrained"
    with Pipeline.open(folder, load_settings("default", common, environment={})) as pipeline:
        pipeline.run_until("infer")
    return folder


@pytest.fixture(scope="module")
def single(common: list[str], untrained: Path) -> Path:
    """Return a copy of the run folder that one process has trained."""
    folder = untrained.with_name("single")
    shutil.copytree(untrained, folder)
    settings = load_settings("default", [*common, "train.batch_size=4"], environment={})
    with Pipeline.open(folder, settings) as pipeline:
        pipeline.run_until("train")
    return folder


def assert_equal(shared: Path, single: Path) -> None:
    """Compare the loss curves and weights of both folds."""
    assert {"train/0", "train/1"} <= manifest.load(shared).keys()
    for fold in (0, 1):
        rows, others = curve(single, fold), curve(shared, fold)
        assert len(rows) == 4 + 2
        assert rows[0]["loss"] != rows[-2]["loss"]
        for row, other in zip(rows, others, strict=True):
            assert row == pytest.approx(other, rel=1e-4, abs=1e-6)
    weights, others = (
        load_file(folder / "folds/1/adapter/adapter_model.safetensors")
        for folder in (single, shared)
    )
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.allclose(tensor, others[name], atol=1e-4), name


def test_two_processes_give_the_same_result_as_one(
    common: list[str], untrained: Path, single: Path
) -> None:
    shared = untrained.with_name("shared")
    shutil.copytree(untrained, shared)
    two = [*common, "train.batch_size=2", "train.strategy=ddp", "train.devices=2"]
    output = wait(start(two, shared))
    # Only rank 0 prints.
    assert output.count("Fine-tuned fold 1 ") == 1
    assert_equal(shared, single)


def test_two_machines_give_the_same_result_as_one_process(
    common: list[str], untrained: Path, single: Path
) -> None:
    """Run two commands with the variables that torchrun sets on two machines with one device."""
    shared = untrained.with_name("machines")
    shutil.copytree(untrained, shared)
    two = [*common, "train.batch_size=2", "train.strategy=ddp", "train.nodes=2", "train.devices=1"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "2"}
    variables |= {"MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
    rank_1, rank_0 = (
        start(two, shared, **variables, RANK=rank, GROUP_RANK=rank) for rank in ("1", "0")
    )
    assert wait(rank_0).count("Fine-tuned fold 1 ") == 1
    assert not wait(rank_1)
    assert_equal(shared, single)


def test_torchrun_on_two_hosts_gives_the_same_result_as_one_process(
    common: list[str], untrained: Path, single: Path
) -> None:
    """Run the command of docs/scaling.md on two hosts with a network between them."""
    shared = untrained.with_name("hosts")
    shutil.copytree(untrained, shared)
    two = [*common, "train.batch_size=2", "train.strategy=ddp", "train.nodes=2", "train.devices=1"]
    with two_hosts() as hosts, ExitStack() as started:
        processes = [
            subprocess.Popen(
                host.command(
                    *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2"),
                    *("--nproc-per-node=1", f"--node-rank={rank}", "--master-port=29500"),
                    *(f"--master-addr={hosts[0].address}", "-m", "--", "mllm_msr", "train"),
                    *("--run", str(shared), *two),
                ),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "GLOO_SOCKET_IFNAME": host.interface},
            )
            for rank, host in enumerate(hosts)
        ]
        for process in processes:
            started.callback(process.terminate)
        outputs = [wait(process) for process in processes]
    assert [output.count("Fine-tuned fold 1 ") for output in outputs] == [1, 0]
    assert_equal(shared, single)
