"""Raw interactions to candidate tables: seconds per step, peak memory, growth with the size.

The data are generated: long-tailed users and items, string ids, rows in random order. Generation
and each measurement run in processes of their own, so that the peak is that of the work alone.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import polars as pl

from mllm_msr.data.negative_sampling import draw_candidates
from mllm_msr.data.preprocessing import match_items, prepare_interactions
from mllm_msr.data.splits import split_users
from mllm_msr.datasets.files import Files

P = ParamSpec("P")
R = TypeVar("R")


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
        interactions: Raw interactions.
        users: Raw users.
        items: Raw items.
        folds: For how many of the five folds candidates are drawn.
        repeats: Measurements, of which the median is given.
        growth: 1 to measure a quarter and a half of the size as well, 0 not to.
        form: File type of the raw interactions, "parquet" or "csv".
        seed: Seed of the data.

    Returns:
        Settings, seconds per step, processor seconds of all threads, the machine's load before
        (above its cores, elapsed times say little), peak resident memory in GB, sizes; and, for
        growth, the elapsed and the processor seconds per million interactions at each size.
    """
    result: dict[str, Any] = {"cores": os.cpu_count(), "form": form, "folds": folds}
    per_million = {}
    cpu_per_million = {}
    for share in (4, 2, 1) if growth else (1,):
        sizes = (interactions // share, users // share, items // share)
        with tempfile.TemporaryDirectory() as folder:
            _apart(_generate, Path(folder), sizes, form=form, seed=seed)
            runs = [_apart(_measure, Path(folder), folds) for _ in range(repeats)]
        median = sorted(runs, key=lambda one: float(one["seconds"]["all"]))[len(runs) // 2]
        seconds = statistics.median(float(one["seconds"]["all"]) for one in runs)
        per_million[sizes[0]] = round(seconds / sizes[0] * 1e6, 3)
        cpu_per_million[sizes[0]] = round(median["cpu_seconds"] / sizes[0] * 1e6, 3)
        result.update(median)
    result["repeats"] = repeats
    result["seconds_per_million"] = per_million
    result["cpu_seconds_per_million"] = cpu_per_million
    return result


def _apart(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def _generate(folder: Path, sizes: tuple[int, int, int], *, form: str, seed: int) -> None:
    """Write interactions and items whose activity and popularity have long tails."""
    n_interactions, n_users, n_items = sizes
    random = np.random.default_rng(seed)
    user = (n_users * random.random(n_interactions) ** 1.6).astype(np.int64)
    item = (n_items * random.random(n_interactions) ** 3.0).astype(np.int64)
    # Ids of 14 and 10 characters in no telling order, as in the Amazon data.
    names = (
        "A" + ((pl.col("user") * 2_654_435_761) % 10**13).cast(pl.String).str.zfill(13),
        "B0" + ((pl.col("item") * 48_271) % 99_999_989).cast(pl.String).str.zfill(8),
    )
    table = pl.LazyFrame(
        {"user": user, "item": item, "timestamp": random.integers(0, 10**8, n_interactions)}
    ).select(user_id=names[0], item_id=names[1], timestamp="timestamp")
    if form == "csv":
        table.sink_csv(folder / "interactions.csv")
    else:
        table.sink_parquet(folder / "interactions.parquet")
    pl.LazyFrame({"item": np.arange(n_items)}).select(
        item_id=names[1], title="Item " + pl.col("item").cast(pl.String)
    ).sink_parquet(folder / "items.parquet")


def _measure(folder: Path, folds: int) -> dict[str, Any]:
    """One run from the files to the candidates written to disk."""
    load = os.getloadavg()[0]
    clock = [time.perf_counter()]
    raw = Files(path=folder).load()
    clock.append(time.perf_counter())
    interactions, counts = prepare_interactions(raw.interactions)
    items, _ = match_items(interactions, raw.items)
    clock.append(time.perf_counter())
    splits = split_users(interactions)
    clock.append(time.perf_counter())
    candidates = draw_candidates(interactions, splits, folds=list(range(folds)))
    clock.append(time.perf_counter())
    interactions.write_parquet(folder / "out_interactions.parquet")
    items.write_parquet(folder / "out_items.parquet")
    candidates.write_parquet(folder / "out_candidates.parquet")
    clock.append(time.perf_counter())
    steps = ("load_and_check", "filter_and_order", "split", "draw", "write")
    seconds = dict(zip(steps, np.diff(clock).round(2).tolist(), strict=True))
    seconds["all"] = round(clock[-1] - clock[0], 2)
    return {
        "seconds": seconds,
        "cpu_seconds": round(time.process_time(), 2),
        "load_before": round(load, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "counts": counts,
        "candidate_rows": candidates.height,
    }
