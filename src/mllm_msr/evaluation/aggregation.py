"""Means over users with intervals, pooled over folds and seeds.

The user is the unit of resampling. A user who was tested in several folds or under several seeds
of a model counts once, with the mean of their values. A model with several seeds has one score
table per seed, named "model@seed"; this module calls each such table a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from mllm_msr.evaluation.score_checks import KEYS
from mllm_msr.evaluation.significance import Floats, bootstrap_intervals

SEED_MARK: Final = "@"

Cells = dict[str, dict[str, float]]


def model_of(run: str) -> str:
    """Return the model of a run.

    >>> model_of("sasrec@3"), model_of("sasrec")
    ('sasrec', 'sasrec')
    """
    return run.partition(SEED_MARK)[0]


def runs_by_model(runs: Sequence[str]) -> dict[str, list[str]]:
    """Group runs by their model, both in the order given.

    >>> runs_by_model(["a@0", "b", "a@1"])
    {'a': ['a@0', 'a@1'], 'b': ['b']}
    """
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(model_of(run), []).append(run)
    return found


def mean_of_runs(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Average the values per user of several seeds.

    Args:
        frames: Frames with the same columns: `tables.KEYS`, which identify a row, and numbers.

    Returns:
        One row per key, sorted; each value is the mean over the frames that have the key.
    """
    if len(frames) == 1:
        return frames[0]
    stacked = pl.concat(frames)
    # Sort before summation: Polars' threads sum in varying order, which changes the last digit.
    values = [
        pl.col(name).sort().mean().cast(dtype)
        for name, dtype in stacked.schema.items()
        if name not in KEYS
    ]
    return stacked.group_by(KEYS).agg(values).select(stacked.columns).sort(KEYS)


def by_user(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Average columns over the folds of each user; one row per user, sorted."""
    return frame.group_by("user_id").agg(pl.col(columns).mean()).sort("user_id")


def means_with_intervals(
    wide: Mapping[str, pl.DataFrame],
    metrics: Sequence[str],
    *,
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> dict[str, dict[str, Cells]]:
    """Compute means over users and percentile bootstrap intervals.

    Args:
        wide: For each model a frame with `negatives`, `user_id` and one column per metric.
        metrics: Metrics to average. A user whose value of a metric is NaN is left out of that
            metric only.
        seed: Seed of the bootstrap.
        n_resamples: Number of resamples of users.
        level: Level of the intervals, in (0, 1).

    Returns:
        `{model: {negatives: {metric: {mean, low, high, n}}}}`, negatives in alphabetical order.
        `n` is the number of users with a value; metrics without one are left out.
    """
    tables: dict[tuple[str, str, tuple[str, ...]], pl.DataFrame] = {}
    groups: dict[tuple[str, ...], list[tuple[str, str, tuple[str, ...]]]] = {}
    for model, frame in wide.items():
        for (kind,), part in sorted(frame.group_by("negatives"), key=lambda group: str(group[0])):
            for names in _with_same_rows(part, metrics):
                users = by_user(part.filter(pl.col(names[0]).is_not_nan()), names)
                tables[model, str(kind), names] = users
                groups.setdefault(tuple(users["user_id"]), []).append((model, str(kind), names))
    # Tables of the same users share their resamples, which are drawn once.
    bounds: dict[tuple[str, str, tuple[str, ...]], tuple[Floats, Floats]] = {}
    for keys in groups.values():
        values = [tables[key].select(key[2]).to_numpy() for key in keys]
        intervals = bootstrap_intervals(values, seed=seed, n_resamples=n_resamples, level=level)
        bounds.update(zip(keys, intervals, strict=True))
    found: dict[str, dict[str, Cells]] = {}
    for (model, kind, names), users in tables.items():
        means = users.select(names).to_numpy().mean(axis=0)
        low, high = bounds[model, kind, names]
        found.setdefault(model, {}).setdefault(kind, {}).update(
            {
                name: {
                    "mean": float(means[column]),
                    "low": float(low[column]),
                    "high": float(high[column]),
                    "n": users.height,
                }
                for column, name in enumerate(names)
            }
        )
    return {
        model: {
            kind: {name: cells[name] for name in metrics if name in cells}
            for kind, cells in by_kind.items()
        }
        for model, by_kind in found.items()
    }


def _with_same_rows(frame: pl.DataFrame, metrics: Sequence[str]) -> list[tuple[str, ...]]:
    """Group the metrics that are defined in the same rows; leave out those without a value."""
    groups: dict[bytes, list[str]] = {}
    for name in metrics:
        is_defined = frame[name].is_not_nan().to_numpy()
        if is_defined.any():
            groups.setdefault(is_defined.tobytes(), []).append(name)
    return [tuple(names) for names in groups.values()]


def fold_means(
    wide: pl.DataFrame, metrics: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Compute the means of one model in each fold.

    Args:
        wide: Columns `score_checks.KEYS` and one per metric, without NaN.
        metrics: Metrics to average.

    Returns:
        `{negatives: {metric: {fold: mean}}}`.
    """
    # NumPy sums in a fixed order; Polars' threads do not, which changes the last digit.
    result: dict[str, dict[str, dict[str, float]]] = {}
    groups = wide.sort(KEYS).partition_by("negatives", "fold", as_dict=True)
    for (kind, fold), frame in sorted(groups.items()):
        means = frame.select(metrics).to_numpy().mean(axis=0)
        for name, mean in zip(metrics, means, strict=True):
            result.setdefault(str(kind), {}).setdefault(name, {})[str(fold)] = float(mean)
    return result


def seed_means(wide: Mapping[str, pl.DataFrame], metrics: Sequence[str]) -> dict[str, Any]:
    """Compute the means per seed for models with several seeds.

    Args:
        wide: For each run a frame with `score_checks.KEYS` and one column per metric, without NaN.
        metrics: Metrics to average.

    Returns:
        `{model: {negatives: {metric: {seed: mean}}}}`.
    """
    result: dict[str, Any] = {}
    for model, runs in runs_by_model(list(wide)).items():
        for run in runs if len(runs) > 1 else []:
            for (kind,), frame in sorted(wide[run].partition_by("negatives", as_dict=True).items()):
                means = frame.sort(KEYS).select(metrics).to_numpy().mean(axis=0)
                by_metric = result.setdefault(model, {}).setdefault(str(kind), {})
                for name, mean in zip(metrics, means, strict=True):
                    by_metric.setdefault(name, {})[run.partition(SEED_MARK)[2]] = float(mean)
    return result
