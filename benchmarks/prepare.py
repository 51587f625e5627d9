"""Preparation of raw interactions up to candidate tables: seconds per step, memory, growth.

The data are generated: long-tailed users and items, string ids, rows in random order. Generation
and each measurement run in new processes, so that the peak memory is that of the preparation only.
"""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks._measure import in_new_process
from mllm_msr.data.negative_sampling import draw_candidates
from mllm_msr.data.preprocessing import match_items, prepare_interactions
from mllm_msr.data.splits import split_users
from mllm_msr.datasets.files import Files


def run(
    *,
    interactions: int = 20_000_000,
    users: int = 1_000_000,
    items: int = 200_000,
    folds: int = 1,
    repeats: int = 1,
    growth: int = 1,
    form: str = "parquet",
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the preparation of generated data.

    Args:
        interactions: Number of raw interactions.
        users: Number of raw users.
        items: Number of raw items.
        folds: Number of folds, out of five, for which candidates are drawn.
        repeats: Number of measurements; the median is returned.
        growth: 1 to also measure a quarter and a half of the size, 0 to omit them.
        form: File type of the raw interactions, "parquet" or "csv".
        seed: Seed of the data.

    Returns:
        Settings, seconds per step, processor seconds of all threads, load average before the run
        (if it exceeds the number of cores, elapsed times are unreliable), peak resident memory in
        GB, sizes, and the elapsed and processor seconds per million interactions at each size.
    """
    result: dict[str, Any] = {"cores": os.cpu_count(), "form": form, "folds": folds}
    per_million = {}
    cpu_per_million = {}
    for share in (4, 2, 1) if growth else (1,):
        sizes = (interactions // share, users // share, items // share)
        with tempfile.TemporaryDirectory() as folder:
            in_new_process(_generate, Path(folder), sizes, form=form, seed=seed)
            runs = [in_new_process(_measure, Path(folder), folds) for _ in range(repeats)]
        median = sorted(runs, key=lambda one: float(one["seconds"]["all"]))[len(runs) // 2]
        seconds = statistics.median(float(one["seconds"]["all"]) for one in runs)
        per_million[sizes[0]] = round(seconds / sizes[0] * 1e6, 3)
        cpu_per_million[sizes[0]] = round(median["cpu_seconds"] / sizes[0] * 1e6, 3)
        result.update(median)
    result["repeats"] = repeats
    result["seconds_per_million"] = per_million
    result["cpu_seconds_per_million"] = cpu_per_million
    return result


def _generate(folder: Path, sizes: tuple[int, int, int], *, form: str, seed: int) -> None:
    """Write interactions and items with long-tailed activity and popularity."""
    n_interactions, n_users, n_items = sizes
    rng = np.random.default_rng(seed)
    user = (n_users * rng.random(n_interactions) ** 1.6).astype(np.int64)
    item = (n_items * rng.random(n_interactions) ** 3.0).astype(np.int64)
    # As in the Amazon data, ids have 14 and 10 characters, and are not sorted like the rows.
    ids = (
        "A" + ((pl.col("user") * 2_654_435_761) % 10**13).cast(pl.String).str.zfill(13),
        "B0" + ((pl.col("item") * 48_271) % 99_999_989).cast(pl.String).str.zfill(8),
    )
    table = pl.LazyFrame(
        {"user": user, "item": item, "timestamp": rng.integers(0, 10**8, n_interactions)}
    ).select(user_id=ids[0], item_id=ids[1], timestamp="timestamp")
    if form == "csv":
        table.sink_csv(folder / "interactions.csv")
    else:
        table.sink_parquet(folder / "interactions.parquet")
    pl.LazyFrame({"item": np.arange(n_items)}).select(
        item_id=ids[1], title="Item " + pl.col("item").cast(pl.String)
    ).sink_parquet(folder / "items.parquet")


def _measure(folder: Path, folds: int) -> dict[str, Any]:
    """Prepare the files up to the candidate table on disk, and measure each step."""
    load = os.getloadavg()[0]
    times = [time.perf_counter()]
    raw = Files(path=folder).load()
    times.append(time.perf_counter())
    interactions, counts = prepare_interactions(raw.interactions)
    items, _ = match_items(interactions, raw.items)
    times.append(time.perf_counter())
    splits = split_users(interactions)
    times.append(time.perf_counter())
    candidates = draw_candidates(interactions, splits, folds=list(range(folds)))
    times.append(time.perf_counter())
    interactions.write_parquet(folder / "out_interactions.parquet")
    items.write_parquet(folder / "out_items.parquet")
    candidates.write_parquet(folder / "out_candidates.parquet")
    times.append(time.perf_counter())
    steps = ("load_and_check", "filter_and_order", "split", "draw", "write")
    seconds = dict(zip(steps, np.diff(times).round(4).tolist(), strict=True))
    seconds["all"] = round(times[-1] - times[0], 4)
    return {
        "seconds": seconds,
        "cpu_seconds": round(time.process_time(), 2),
        "load_before": round(load, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "counts": counts,
        "candidate_rows": candidates.height,
    }
