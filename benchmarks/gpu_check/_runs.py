"""Steps that run the pipeline, kill it in training, and compare it with an uninterrupted run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from benchmarks.gpu_check._step import Check, CheckFailedError, Record, require
from mllm_msr.config.loading import load_settings
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.storage import layout

# Largest difference of probabilities and losses between a resumed and an uninterrupted run. Sums on
# a GPU depend on the order of its threads.
_TOLERANCE: Final = {"cpu": 1e-6, "cuda": 0.05}
_POLL_SECONDS: Final = 0.005
_EXCERPT_CHARACTERS: Final = 600
_LOG: Final = f"{layout.TRAINING}/log.jsonl"
_RESUMED: Final = "Resuming training after"


def run_demo(check: Check, record: Record) -> None:
    """Run the pipeline with the demo model."""
    _run(check, record, "demo", [f"model.device={check.device}"])


def run_shape(check: Check, record: Record) -> None:
    """Run the pipeline with the random model."""
    words = ("summarize.text_words", "summarize.image_words", "summarize.words", "infer.words")
    _run(
        check,
        record,
        "shape",
        [
            "model.backend=huggingface",
            f"model.checkpoint={check.checkpoint()}",
            f"model.device={check.device}",
            f"model.dtype={check.half}",
            # A random model always writes as many tokens as it may.
            *(f"{name}=8" for name in words),
        ],
    )


def _run(check: Check, record: Record, name: str, settings: Sequence[str]) -> None:
    """Run the pipeline, kill it, resume it, and compare it with an uninterrupted run.

    Raises:
        CheckFailedError: A run failed, was not resumed, or differs from the uninterrupted one.
    """
    folder, reference = (check.output / f"run-{name}-{kind}" for kind in ("killed", "whole"))
    for old in (folder, reference):
        shutil.rmtree(old, ignore_errors=True)
    overrides = [*_small_run(check), *settings]
    command = [sys.executable, "-m", "mllm_msr", "run", "--preset", "demo", *overrides]
    command += ["--run", str(folder)]
    n_steps, state = _run_until_killed(command, folder)
    record.add(killed_after_state=state)
    shutil.copytree(folder, reference, symlinks=True)
    shutil.rmtree(reference / layout.TRAINING)
    start = time.monotonic()
    _finish(command)
    record.add(seconds_resumed=round(time.monotonic() - start, 1))
    with Pipeline.open(reference, load_settings("demo", overrides)) as pipeline:
        pipeline.run_until("score")
    log = (folder / layout.LOG).read_text(encoding="utf-8")
    require(_RESUMED in log, f"The killed run trained again from the start, after {n_steps} steps.")
    _compare(check, record, folder, reference)


def _small_run(check: Check) -> list[str]:
    """Return the settings of a run of the demo's data with few users, items and steps."""
    n_users, n_items, n_steps = (16, 30, 6) if check.is_small else (60, 80, 24)
    return [
        f"data.covers={check.output / 'demo-covers'}",
        *(f"data.n_users={n_users}", f"data.n_items={n_items}", "data.n_negatives=5"),
        *("train.rank=4", "train.batch_size=8", f"train.max_steps={n_steps}", "train.epochs=50"),
        *("train.checkpoint_every=2", "train.validate_every=1000", "report.case_studies=0"),
        *("score.baselines=[popularity]", "score.full_users=0"),
    ]


def _run_until_killed(command: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a command and kill it once it has saved a state of its training.

    Returns:
        The number of logged steps, and the name of the state.

    Raises:
        CheckFailedError: The command ended before.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        states: list[Path] = []
        try:
            while process.poll() is None and not states:
                states = sorted((folder / layout.TRAINING).glob("state-*"))
                time.sleep(_POLL_SECONDS)
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        text = errors.read().strip()[-_EXCERPT_CHARACTERS:]
    if process.returncode != -signal.SIGKILL:
        raise CheckFailedError(
            f"The run ended with code {process.returncode} before it could be killed: {text}"
        )
    return len(_losses(folder)), states[-1].name


def _finish(command: Sequence[str]) -> None:
    run = subprocess.run(command, capture_output=True, check=False, text=True)
    text = run.stderr.strip()[-_EXCERPT_CHARACTERS:]
    require(run.returncode == 0, f"The run ended with code {run.returncode}: {text}")


def _compare(check: Check, record: Record, resumed: Path, whole: Path) -> None:
    """Compare losses and scores of two runs."""
    losses = [_losses(run) for run in (resumed, whole)]
    keys = ["fold", "negatives", "user_id", "item_id"]
    scores = [pl.read_parquet(run / layout.SCORES / "mllm_msr.parquet") for run in (resumed, whole)]
    both = scores[0].join(scores[1], on=keys, suffix="_whole")
    differences = {
        "loss": max(abs(a - b) for a, b in zip(*losses, strict=True)),
        "score": float(np.abs(both["score"] - both["score_whole"]).max()),
    }
    metrics: dict[str, Any] = json.loads((resumed / layout.METRICS).read_text(encoding="utf-8"))
    record.add(
        steps=len(losses[0]),
        losses=losses[0],
        largest_difference=differences,
        metrics={name: values.get("uniform", {}).get("auc") for name, values in metrics.items()},
    )
    require(both.height == scores[0].height == scores[1].height, "The runs score other candidates.")
    for name, found in differences.items():
        require(
            found <= _TOLERANCE[check.device],
            f"The {name} of the resumed run differs by {found:.2g} from the uninterrupted run, "
            f"more than {_TOLERANCE[check.device]:g}.",
        )


def _losses(run: Path) -> list[float]:
    rows = map(json.loads, (run / _LOG).read_text(encoding="utf-8").splitlines())
    return [row["loss"] for row in rows if "loss" in row]
