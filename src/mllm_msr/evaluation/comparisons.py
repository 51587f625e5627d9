"""Every two models against each other: paired tests on their common users, Holm corrected.

Part of the evaluation's third step. A family of tests, within which the correction counts, is all
pairs under one kind of negatives in one metric.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from mllm_msr.evaluation.aggregation import by_user
from mllm_msr.evaluation.significance import Comparison, compare, holm

COMPARED: Final = ("auc", "hr@5", "mrr@5", "ndcg@5")


def compare_models(
    wide: Mapping[str, pl.DataFrame],
    *,
    metrics: Sequence[str],
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """Paired comparisons of every two models on their common users.

    Args:
        wide: For each model a frame with `metrics.KEYS` and one column per metric, without NaN.
        metrics: Metrics to compare.
        seed: Seed of the tests.
        n_resamples: Resamples of each test.
        level: Level of the interval of the difference.

    Returns:
        One record per negatives kind, metric and pair: `first`, `second`, `difference`, `low`,
        `high`, `better`, `worse`, `n`, `p` and `p_holm`.
    """
    records: list[dict[str, Any]] = []
    for kind in sorted(set().union(*(frame["negatives"].unique() for frame in wide.values()))):
        users = {
            model: by_user(frame.filter(pl.col("negatives") == kind), metrics)
            for model, frame in wide.items()
        }
        # Pairs with the same users are compared at once: their resamples are the same.
        groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for first, second in itertools.combinations(users, 2):
            common = users[first].join(users[second], on="user_id", how="semi")["user_id"]
            if common.len():
                groups.setdefault(tuple(common), []).append((first, second))
        for common_users, pairs in groups.items():
            shared = pl.Series("user_id", common_users)
            rows = {
                m: f.filter(pl.col("user_id").is_in(shared.implode())) for m, f in users.items()
            }
            ours, theirs = (
                np.hstack([rows[pair[side]].select(metrics).to_numpy() for pair in pairs])
                for side in (0, 1)
            )
            result = compare(ours, theirs, seed=seed, n_resamples=n_resamples, level=level)
            records += [
                _record(result, at, kind=kind, metric=metric, first=first, second=second)
                for at, ((first, second), metric) in enumerate(itertools.product(pairs, metrics))
            ]
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        families.setdefault((record["negatives"], record["metric"]), []).append(record)
    for family in families.values():
        corrected = holm([record["p"] for record in family])
        for record, value in zip(family, corrected, strict=True):
            record["p_holm"] = float(value)
    return records


def _record(
    result: Comparison, at: int, *, kind: str, metric: str, first: str, second: str
) -> dict[str, Any]:
    """One column of a comparison as a record that fits JSON."""
    return {
        "negatives": kind,
        "metric": metric,
        "first": first,
        "second": second,
        "difference": float(result.difference[at]),
        "low": float(result.low[at]),
        "high": float(result.high[at]),
        "better": float(result.better[at]),
        "worse": float(result.worse[at]),
        "n": result.n_users,
        "p": float(result.p_value[at]),
    }
