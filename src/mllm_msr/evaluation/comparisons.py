"""Paired comparisons of all pairs of models on their common users, with Holm's correction.

Part of the third step of the evaluation. Under one kind of negatives and one metric there are two
families of tests, each corrected on its own: the main model against each other model, which answers
the question of the run, and all pairs of models. The main model has to be fixed before the results
are known; the best of several models is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from mllm_msr.evaluation.aggregation import by_user
from mllm_msr.evaluation.metrics import higher_is_better
from mllm_msr.evaluation.significance import Comparison, compare, holm

# The model that a run is about: the main model wherever it was evaluated.
MAIN: Final = "mllm_msr"


def compare_models(
    wide: Mapping[str, pl.DataFrame],
    *,
    metrics: Sequence[str],
    seed: int,
    main: str | None = MAIN,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """Compare all pairs of models on their common users.

    Args:
        wide: For each model a frame with `score_checks.KEYS` and one column per metric, without
            NaN.
        metrics: Metrics to compare.
        seed: Seed of the tests.
        main: The main model; without scores of it, there is one family only.
        n_resamples: Number of resamples of each interval.
        level: Level of the interval of the difference.

    Returns:
        One record per kind of negatives, metric and pair: `difference` of the means of `first` and
        `second` with its interval (`low`, `high`), shares of users for whom `first` is `better` or
        `worse`, number of users `n`, p-value `p`, the p-value corrected over
        all pairs, `p_holm`, and the one corrected over the pairs of the main model, `p_main`, which
        is None for other pairs.
    """
    records: list[dict[str, Any]] = []
    for kind in sorted(set().union(*(frame["negatives"].unique() for frame in wide.values()))):
        users = {
            model: by_user(frame.filter(pl.col("negatives") == kind), metrics)
            for model, frame in wide.items()
        }
        for common_users, pairs in _pairs_by_common_users(users).items():
            rows = {
                model: frame.filter(pl.col("user_id").is_in(list(common_users)))
                for model, frame in users.items()
            }
            sides = [
                np.hstack([rows[pair[side]].select(metrics).to_numpy() for pair in pairs])
                for side in (0, 1)
            ]
            result = compare(*sides, seed=seed, n_resamples=n_resamples, level=level)
            for column, ((first, second), metric) in enumerate(itertools.product(pairs, metrics)):
                named = {"negatives": kind, "metric": metric, "first": first, "second": second}
                records.append(named | _record(result, column, metric))
    _correct_p_values(records, main)
    return records


def _record(result: Comparison, column: int, metric: str) -> dict[str, Any]:
    """Return one column of a comparison as JSON values."""
    better, worse = float(result.better[column]), float(result.worse[column])
    if not higher_is_better(metric):
        better, worse = worse, better
    return {
        "difference": float(result.difference[column]),
        "low": float(result.low[column]),
        "high": float(result.high[column]),
        "better": better,
        "worse": worse,
        "n": result.n_users,
        "p": float(result.p_value[column]),
    }


def _pairs_by_common_users(
    users: Mapping[str, pl.DataFrame],
) -> dict[tuple[str, ...], list[tuple[str, str]]]:
    """Group the pairs of models by their common users; other users are left out.

    Pairs with the same users share their resamples, so that one call compares all of them.
    """
    groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for first, second in itertools.combinations(users, 2):
        common = users[first].join(users[second], on="user_id", how="semi")["user_id"]
        if common.len():
            groups.setdefault(tuple(common), []).append((first, second))
    return groups


def _correct_p_values(records: Sequence[dict[str, Any]], main: str | None) -> None:
    """Add the corrected p-values `p_holm` and `p_main` to each record."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["negatives"], record["metric"]), []).append(record)
        record["p_main"] = None
    for pairs in groups.values():
        own = [record for record in pairs if main in {record["first"], record["second"]}]
        for name, family in (("p_holm", pairs), ("p_main", own)):
            corrected = holm([record["p"] for record in family])
            for record, value in zip(family, corrected, strict=True):
                record[name] = float(value)
