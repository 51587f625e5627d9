"""The value that chooses the checkpoint: AUC per user on the validation examples.

The trainer takes any other metric of the same form; the evaluation of a finished run is elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mllm_msr.errors import DataError
from mllm_msr.ranker.examples import Example

ValidationMetric = Callable[[NDArray[np.int64], NDArray[np.float64], Sequence[str]], float]
Judge = Callable[[Sequence[float]], float]


def auc_per_user(
    labels: NDArray[np.int64], scores: NDArray[np.float64], users: Sequence[str]
) -> float:
    """Mean over users of the area under the ROC curve, ties counted half.

    Args:
        labels: 0 or 1: [rows].
        scores: Higher is better: [rows].
        users: Whose row it is: [rows].

    Returns:
        In [0, 1]; users without both labels are left out, NaN where nobody is left.
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


def judge_of(examples: Sequence[Example], metric: ValidationMetric) -> Judge | None:
    """A validation metric as a function of the scores alone.

    Args:
        examples: The validation examples.
        metric: From labels, scores and users to a value; a user's rows under different
            negatives, or for different targets, count as different users.

    Returns:
        A function of one score for each example, in their order; `None` without examples.

    Raises:
        DataError: No user has both labels.
    """
    if not examples:
        return None
    labels = np.array([example.label for example in examples], dtype=np.int64)
    users = [f"{e.fold}/{e.negatives}/{e.position}/{e.user_id}" for e in examples]
    if math.isnan(metric(labels, np.zeros(len(examples)), users)):
        raise DataError(
            needed="a validation user with a positive and a negative candidate",
            received=f"{len(examples)} examples without one, {int(labels.sum())} of them positive",
            remedy="draw validation candidates with negatives, or pass no validation examples",
        )
    return lambda scores: metric(labels, np.asarray(scores, dtype=np.float64), users)
