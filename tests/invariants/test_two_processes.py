"""Training shared by two processes: the one-process loss curve, fold after fold, by one setting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import worlds
from mllm_msr import manifest
from mllm_msr.config import load_settings
from mllm_msr.pipeline import Pipeline

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


def train(settings: list[str], *, run: Path) -> subprocess.CompletedProcess[str]:
    """Fine-tune by the command, which starts itself once more for the second process."""
    return subprocess.run(
        [sys.executable, "-m", "mllm_msr", "train", *settings, "--run", str(run)],
        check=False,
        capture_output=True,
        text=True,
        # Loopback by number: a machine's own name need not resolve.
        env={**os.environ, "MASTER_ADDR": "127.0.0.1"},
    )


def curve(folder: Path, fold: int) -> list[dict[str, Any]]:
    log = (folder / f"folds/{fold}/training/log.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in log.splitlines()]
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_give_the_loss_curve_of_one(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    data = worlds.write_files(tmp_path / "data")
    scripted = [text for text in worlds.settings(data) if text.startswith("model.")]
    common = [text for text in worlds.settings(data, *SETTINGS) if text not in scripted]
    common += [f"{stage}.{text}" for stage in ("summarize", "infer") for text in scripted]
    common += ["model.backend=huggingface", f"model.checkpoint={tiny_checkpoint('llama')}"]
    one = [*common, "train.batch_size=4"]
    two = [*common, "train.batch_size=2", "train.strategy=ddp", "train.devices=2"]
    with Pipeline.open(tmp_path / "one", load_settings("sound", one, environment={})) as pipeline:
        pipeline.run_until("train")
    with Pipeline.open(tmp_path / "two", load_settings("sound", two, environment={})) as pipeline:
        pipeline.run_until("infer")

    ended = train(two, run=tmp_path / "two")

    assert ended.returncode == 0, ended.stderr
    assert {"train/0", "train/1"} <= manifest.load(tmp_path / "two").keys()
    # The follower says nothing: what the command prints, it prints once.
    assert ended.stdout.count("train/1") == 1
    for fold in (0, 1):
        alone, shared = curve(tmp_path / "one", fold), curve(tmp_path / "two", fold)
        assert len(alone) == 4 + 2
        assert alone[0]["loss"] != alone[-2]["loss"]
        for row, other in zip(alone, shared, strict=True):
            assert row == pytest.approx(other, rel=1e-4, abs=1e-6)
    # The weights as well, not only what was logged on the way.
    weights, others = (
        load_file(tmp_path / run / "folds/1/adapter/adapter_model.safetensors")
        for run in ("one", "two")
    )
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.allclose(tensor, others[name], atol=1e-4), name
