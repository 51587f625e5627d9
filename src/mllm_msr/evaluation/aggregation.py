"""From values per user to means with intervals, folds and seeds pooled.

The user is the unit of chance: a user who was tested in several folds or by several seeds of one
model counts once, with the mean of his values. A model that was run with several seeds is one
that has several tables of scores, named "name@seed".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from mllm_msr.evaluation.metrics import KEYS
from mllm_msr.evaluation.significance import Floats, bootstrap_intervals

SEED_MARK: Final = "@"

Cells = dict[str, dict[str, float]]


def model_of(run: str) -> str:
    """The model of a run.

    >>> model_of("sasrec@3"), model_of("sasrec")
    ('sasrec', 'sasrec')
    """
    return run.partition(SEED_MARK)[0]


def runs_by_model(runs: Sequence[str]) -> dict[str, list[str]]:
    """The runs of each model, both in the order given.

    >>> runs_by_model(["a@0", "b", "a@1"])
    {'a': ['a@0', 'a@1'], 'b': ['b']}
    """
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(model_of(run), []).append(run)
    return found


def mean_of_runs(frames: Sequence[pl.DataFrame], keys: Sequence[str] = KEYS) -> pl.DataFrame:
    """One frame of per-user values out of those of several seeds.

    Args:
        frames: Frames with the same columns: `keys`, and numbers.
        keys: What makes a row.

    Returns:
        One row per key, sorted; each value is the mean over the frames that have the key.
    """
    if len(frames) == 1:
        return frames[0]
    stacked = pl.concat(frames)
    # Summed in a fixed order: Polars' threads would change the last digit.
    values = [
        pl.col(name).sort().mean().cast(dtype)
        for name, dtype in stacked.schema.items()
        if name not in keys
    ]
    return stacked.group_by(keys).agg(values).select(stacked.columns).sort(keys)


def by_user(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """One row per user, sorted: a user who was tested in several folds is still one user."""
    return frame.group_by("user_id").agg(pl.col(columns).mean()).sort("user_id")


def means_with_intervals(
    wide: Mapping[str, pl.DataFrame],
    metrics: Sequence[str],
    *,
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> dict[str, dict[str, Cells]]:
    """Means over users and percentile bootstrap intervals.

    Args:
        wide: For each model a frame with `negatives`, `user_id` and one column per metric.
        metrics: Metrics to average; users for whom one is NaN are left out of all.
        seed: Seed of the bootstrap.
        n_resamples: Resamples of users.
        level: Level of the intervals.

    Returns:
        `{model: {negatives: {metric: {mean, low, high, n}}}}`, negatives in alphabetical order.
    """
    tables: dict[tuple[str, str], pl.DataFrame] = {}
    groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for model, frame in wide.items():
        defined = frame.filter(pl.all_horizontal(pl.col(metrics).is_not_nan()))
        for (kind,), part in sorted(defined.group_by("negatives"), key=lambda group: str(group[0])):
            users = by_user(part, metrics)
            tables[model, str(kind)] = users
            groups.setdefault(tuple(users["user_id"]), []).append((model, str(kind)))
    bounds: dict[tuple[str, str], tuple[Floats, Floats]] = {}
    for places in groups.values():
        values = [tables[place].select(metrics).to_numpy() for place in places]
        drawn = bootstrap_intervals(values, seed=seed, n_resamples=n_resamples, level=level)
        bounds.update(zip(places, drawn, strict=True))
    found: dict[str, dict[str, Cells]] = {}
    for (model, kind), users in tables.items():
        means = users.select(metrics).to_numpy().mean(axis=0)
        low, high = bounds[model, kind]
        found.setdefault(model, {})[kind] = {
            name: {
                "mean": float(means[at]),
                "low": float(low[at]),
                "high": float(high[at]),
                "n": users.height,
            }
            for at, name in enumerate(metrics)
        }
    return found
