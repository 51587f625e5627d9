"""Validation metric that selects the weights: mean AUC per user on the validation examples.

The trainer accepts any metric with this signature. `evaluation/` evaluates finished runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mllm_msr.errors import DataError
from mllm_msr.ranker.examples import Example

# Metric of labels, scores and users, higher is better.
ValidationMetric = Callable[[NDArray[np.int64], NDArray[np.float64], Sequence[str]], float]
# Metric of the scores of a fixed set of examples.
ScoreMetric = Callable[[Sequence[float]], float]


def auc_per_user(
    labels: NDArray[np.int64], scores: NDArray[np.float64], users: Sequence[str]
) -> float:
    """Return the mean over users of the area under the ROC curve; ties count half.

    Args:
        labels: 0 or 1: [rows].
        scores: Higher is better: [rows].
        users: User of each row: [rows].

    Returns:
        A value in [0, 1]. Users without both labels are left out; NaN if no user is left.
    """
    rows: dict[str, list[int]] = {}
    for row, user in enumerate(users):
        rows.setdefault(user, []).append(row)
    values = []
    for own in rows.values():
        positive = labels[own] == 1
        n_positive, n_negative = int(positive.sum()), int((~positive).sum())
        if n_positive and n_negative:
            ranks = rankdata(scores[own])
            wins = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
            values.append(wins / (n_positive * n_negative))
    return float(np.mean(values)) if values else math.nan


def bind_metric(examples: Sequence[Example], metric: ValidationMetric) -> ScoreMetric | None:
    """Return a validation metric as a function of the scores alone.

    Args:
        examples: Validation examples.
        metric: Metric of labels, scores and users. Rows of a user with different negatives or
            different targets count as different users.

    Returns:
        A function of one score per example, in the same order; `None` without examples.

    Raises:
        DataError: No user has both labels.
    """
    if not examples:
        return None
    labels = np.array([example.label for example in examples], dtype=np.int64)
    users = [f"{e.fold}/{e.negatives}/{e.position}/{e.user_id}" for e in examples]
    if math.isnan(metric(labels, np.zeros(len(examples)), users)):
        raise DataError(
            "No validation user has both a positive and a negative candidate "
            f"({len(examples)} examples, {int(labels.sum())} of them positive). Prepare validation "
            "candidates with negatives, or pass no validation examples."
        )
    return lambda scores: metric(labels, np.asarray(scores, dtype=np.float64), users)
