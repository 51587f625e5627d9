"""Full-catalog ranking for all users: seconds, peak memory, size of all scores.

The scorer is as cheap as possible (products of random user and item vectors, in chunks), so that
the ranking dominates. Scoring alone is measured as well. With `--model student`, the scorer is the
student with random weights, which encodes histories and written preferences.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from mllm_msr.baselines._sequences.sequence_model import SequenceModel
from mllm_msr.baselines._training.histories import ItemCodes, UserTexts
from mllm_msr.baselines.student import Student
from mllm_msr.evaluation.ranking import rank_catalog
from mllm_msr.tables import CANDIDATES, INTERACTIONS

Vectors = npt.NDArray[np.float32]


def run(
    *,
    users: int = 25_000,
    items: int = 12_000,
    history: int = 9,
    factors: int = 64,
    chunk: int = 1024,
    model: str = "",
    repeats: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the ranking of generated users and items.

    Args:
        users: Number of users, with one ranking each.
        items: Number of items in the catalog.
        history: Number of interactions per user, which are excluded from the ranking.
        factors: Length of the vectors.
        chunk: Number of users that the scorer scores at a time; the student has its own number.
        model: "student", or empty for products of random vectors.
        repeats: Number of measurements; the median is returned.
        seed: Seed of the data.

    Returns:
        Settings, elapsed and processor seconds (of all threads) of scoring and ranking together
        and of scoring alone, load average before the run (if it exceeds the number of cores,
        elapsed times are unreliable), peak memory, and the size of all scores, which are never in
        memory at the same time.
    """
    rng = np.random.default_rng(seed)
    user_vectors, item_vectors = (
        rng.normal(size=(n, factors)).astype(np.float32) for n in (users, items)
    )
    catalog = [f"i{number:07}" for number in rng.permutation(items)]
    interactions, targets = _make_histories(users, catalog, length=history, rng=rng)

    student = _make_student(catalog, interactions, factors, rng) if model == "student" else None

    def chunks() -> Iterator[tuple[pl.DataFrame, Vectors]]:
        if student is not None:
            yield from student.catalog_scores(targets, interactions)
            return
        for start in range(0, users, chunk):
            yield targets.slice(start, chunk), user_vectors[start : start + chunk] @ item_vectors.T

    def rank() -> None:
        rank_catalog(chunks(), targets, catalog=catalog, interactions=interactions)

    def score() -> None:
        for _ in chunks():
            pass

    load = os.getloadavg()[0]
    together = np.median([_time(rank) for _ in range(repeats)], axis=0).round(2)
    alone = np.median([_time(score) for _ in range(repeats)], axis=0).round(2)
    return {
        "cores": os.cpu_count(),
        "model": model or "random vectors",
        "users": users,
        "items": items,
        "seconds": float(together[0]),
        "seconds_of_scoring": float(alone[0]),
        "cpu_seconds": float(together[1]),
        "cpu_seconds_of_scoring": float(alone[1]),
        "load_before": round(load, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "scores_gb": round(4 * users * items / 1e9, 2),
    }


def _make_student(
    catalog: list[str], interactions: pl.DataFrame, size: int, rng: np.random.Generator
) -> SequenceModel:
    """Return a student with random weights, content vectors and one preference per user."""
    vectors = {
        name: torch.from_numpy(rng.normal(size=(len(catalog) + 1, width)).astype(np.float32))
        for name, width in (("text", 128), ("image", 157))
    }
    users = interactions.select("user_id").unique(maintain_order=True)
    texts = rng.normal(size=(users.height + 1, 128)).astype(np.float32)
    network = Student(hidden=size).build_network(
        len(catalog), {**vectors, "preference": torch.from_numpy(texts)}
    )
    return SequenceModel(
        network.eval(),
        ItemCodes(tuple(catalog)),
        n_warm=len(catalog),
        catalog=tuple(catalog),
        counts=torch.ones(len(catalog) + 1),
        max_length=50,
        texts=UserTexts(users.with_columns(position=pl.lit(3, pl.Int32))),
    )


def _time(work: Callable[[], None]) -> tuple[float, float]:
    """Return elapsed seconds and processor seconds of all threads."""
    elapsed, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - elapsed, time.process_time() - processor


def _make_histories(
    n_users: int, catalog: list[str], *, length: int, rng: np.random.Generator
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return random histories with `length` items and a target per user, and the targets."""
    n_rows = n_users * (length + 1)
    position = np.tile(np.arange(length + 1), n_users)
    interactions = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in range(n_users) for _ in range(length + 1)],
            "item_id": np.array(catalog)[rng.integers(0, len(catalog), n_rows)],
            "timestamp": position,
            "position": position,
        },
        schema=dict(INTERACTIONS),
    )
    last = interactions.filter(pl.col("position") == length)
    constants = {"fold": 0, "split": "test", "negatives": "uniform", "label": 1}
    targets = last.with_columns(pl.lit(v).alias(k) for k, v in constants.items()).select(
        pl.col(name).cast(dtype) for name, dtype in CANDIDATES.items()
    )
    return interactions, targets
