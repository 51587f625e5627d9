"""SASRec and GRU4Rec compared with RecTools' SASRec: seconds per epoch, peak memory, quality.

All are trained on the same interactions of one fold of a prepared run folder, with the same
settings and number of epochs and without validation, each in a new process. Quality is measured by
full-catalog ranking for the fold's test users. RecTools runs in a separate environment under
`build/`, which is created on demand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, cast

import polars as pl
import torch

from benchmarks._measure import in_new_process, peak_gb
from mllm_msr.baselines import _factory
from mllm_msr.data.splits import visible_interactions
from mllm_msr.evaluation.per_user import metrics_from_counts
from mllm_msr.evaluation.ranking import rank_catalog
from mllm_msr.interfaces import CatalogScorer, TrainingData
from mllm_msr.tables import CANDIDATES, empty

_ENVIRONMENT: Final = Path("build/rectools")
_PACKAGES: Final = ("torch", "rectools[torch]==0.19.0")
_RECTOOLS_SCRIPT: Final = Path(__file__).with_name("_rectools_sasrec.py")


def run(
    *,
    folder: str = "runs/microlens",
    models: str = "sasrec,gru4rec",
    fold: int = 0,
    epochs: int = 2,
    max_length: int = 16,
    batch_size: int = 128,
    threads: int = 1,
    peer: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the training of baselines.

    Args:
        folder: A prepared run folder.
        models: Baselines of this package, separated by commas.
        fold: Fold for training and testing.
        epochs: Number of epochs of each model.
        max_length: Number of latest items of a history that the models use.
        batch_size: Number of histories per step.
        threads: Number of threads of each model. On a machine with other load, several threads
            wait for each other, and processor seconds include the waiting.
        peer: 1 to measure RecTools as well, 0 to omit it.
        seed: Random seed of each model.

    Returns:
        Settings, load average before the run, and for each model elapsed and processor seconds
        per epoch (of all threads), peak resident memory in GB, and HR@10 and NDCG@10 over the
        catalog; and RecTools' processor seconds divided by ours.
    """
    settings = {
        "epochs": epochs,
        "max_length": max_length,
        "batch_size": batch_size,
        "learning_rate": 1e-3,
        "dropout": 0.3,
        "seed": seed,
    }
    attention = {"hidden": 64, "n_blocks": 2, "n_heads": 2}
    result: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "threads": threads,
        **settings,
    }
    names = models.split(",")
    for name in names:
        arguments = {**settings, **(attention if name == "sasrec" else {})}
        result[name] = in_new_process(_measure_ours, Path(folder), name, fold, arguments, threads)
    if peer:
        result["rectools"] = _measure_rectools(
            Path(folder), fold, {**settings, **attention}, threads
        )
        theirs = result["rectools"]["processor_per_epoch"]
        result["times_faster"] = {
            name: round(theirs / result[name]["processor_per_epoch"], 1) for name in names
        }
    return result


def _read_fold(folder: Path, fold: int) -> tuple[pl.DataFrame, frozenset[str], pl.DataFrame]:
    """Return the visible interactions, the training users, and the targets of the test users."""
    visible, users = visible_interactions(
        pl.read_parquet(folder / "interactions.parquet"),
        pl.read_parquet(folder / "splits.parquet"),
        fold,
    )
    rows = pl.scan_parquet(folder / "candidates.parquet").filter(
        (pl.col("fold") == fold) & (pl.col("split") == "test") & (pl.col("label") == 1)
    )
    targets = rows.filter(pl.col("negatives") == pl.col("negatives").first()).collect()
    return visible, users, targets


def _measure_ours(
    folder: Path, name: str, fold: int, arguments: dict[str, Any], threads: int
) -> dict[str, Any]:
    import lightning  # noqa: F401, PLC0415 - imported before the clock starts

    torch.set_num_threads(threads)
    visible, users, targets = _read_fold(folder, fold)
    items = pl.read_parquet(folder / "items.parquet")
    data = TrainingData(visible, items, empty(CANDIDATES), users)
    model = _factory.make(name, arguments)
    elapsed, processor = time.perf_counter(), time.process_time()
    model.fit(data)
    epochs = arguments["epochs"]
    seconds = {
        "elapsed_per_epoch": round((time.perf_counter() - elapsed) / epochs, 2),
        "processor_per_epoch": round((time.process_time() - processor) / epochs, 2),
    }
    scorer = cast("CatalogScorer", model)
    ranks = rank_catalog(
        scorer.score_catalog(targets.select("user_id", "position"), visible),
        targets,
        catalog=scorer.catalog,
        interactions=visible,
    ).ranks
    values = metrics_from_counts(
        ranks["n_better"], ranks["n_tied"], n_negatives=ranks["n_negatives"], ks=[10]
    )
    quality = {metric: round(float(values[metric].mean()), 4) for metric in ("hr@10", "ndcg@10")}
    return {**seconds, "peak_gb": peak_gb("cpu"), **quality}


def _measure_rectools(
    folder: Path, fold: int, settings: dict[str, Any], threads: int
) -> dict[str, Any]:
    python = _ENVIRONMENT.absolute() / "bin" / "python"
    ready = _ENVIRONMENT / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", str(_ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *_PACKAGES], check=True)
        ready.touch()
    visible, _, targets = _read_fold(folder, fold)
    with tempfile.TemporaryDirectory() as exchange:
        # Both implementations learn from the order of positions.
        visible.select("user_id", "item_id", timestamp="position").write_csv(
            Path(exchange) / "interactions.csv"
        )
        targets.select("user_id", "item_id").write_csv(Path(exchange) / "targets.csv")
        done = subprocess.run(
            [str(python), str(_RECTOOLS_SCRIPT), exchange, json.dumps(settings)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
