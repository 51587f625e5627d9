"""Fitting of the weights of lists by a conditional logit: which item of a list is the target?

The probability of an item is the softmax of its value over the list of its user. Weights are
shrunk towards a prior mean, because there are few users: towards the fixed weights of rank fusion,
and towards a ranker that changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mllm_msr.recommend.rank_fusion import Floats

# Prior of the scale of rank fusion: mean and standard deviation. With 300, the first item of a
# ranking is 20 times as probable as the 100th.
_SCALE: Final = (300.0, 300.0)
# Standard deviations of the prior of the weights: of the rank, relative to the fixed weight 1, and
# of the standardized score.
_RANK_DEVIATION: Final = 0.3
_SCORE_DEVIATION: Final = 0.3
# Prior of the scale of the generators' values beside the ranker, and of the ranker's slope.
_RANKER_MEAN: Final = (1.0, 0.0)
_RANKER_DEVIATION: Final = (0.3, 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class ValidationList:
    """List of candidates of one validation user.

    Attributes:
        features: See `rank_fusion.Pool`, float64 [n_items, n_generators, 2].
        target: Row of the target; None if no generator has proposed it.
    """

    features: Floats
    target: int | None


def fit_generators(lists: Sequence[ValidationList], fixed: Floats) -> Floats:
    """Return the weights of the candidate generators, [n_generators, 2], none of them negative.

    First only the scale of the fixed weights is fitted, and then each weight with the scaled ones
    as prior mean.

    Args:
        lists: Lists of validation users; those without their target do not count.
        fixed: Fixed weights, [n_generators, 2].
    """
    found = [one for one in lists if one.target is not None]
    features = [one.features.reshape(len(one.features), -1) for one in found]
    targets = [one.target for one in found if one.target is not None]
    prior = fixed.reshape(-1)
    mean, deviation = np.array(_SCALE[:1]), np.array(_SCALE[1:])
    scale = fit_conditional_logit(
        [table @ prior[:, None] for table in features], targets, mean, deviation
    )[0]
    deviations = np.tile([_RANK_DEVIATION * max(scale, 1.0), _SCORE_DEVIATION], len(fixed))
    fitted = fit_conditional_logit(features, targets, scale * prior, deviations)
    return fitted.reshape(fixed.shape)


def fit_ranker(
    values: Sequence[Floats],
    logits: Sequence[Floats],
    targets: Sequence[int | None],
    *,
    budgets: Sequence[int],
) -> tuple[float, float]:
    """Return the scale of the generators' values, and the slope of the ranker's logit.

    Only the order of scored candidates counts. The weights suit lists with any of the budgets: the
    likelihood is the mean over budgets.

    Args:
        values: Values of the candidates of each user by their generators, not increasing.
        logits: Logits of their calibrated P(yes); NaN for those without a score.
        targets: Row of each user's target, if it is among the candidates.
        budgets: Numbers of candidates that are scored.
    """
    features, rows = [], []
    for value, logit, target in zip(values, logits, targets, strict=True):
        for budget in budgets:
            scored = np.flatnonzero(np.isfinite(logit[:budget]))
            if target is not None and target in scored:
                features.append(np.column_stack([value[scored], logit[scored]]))
                rows.append(int(np.searchsorted(scored, target)))
    scale, slope = fit_conditional_logit(
        features,
        rows,
        np.array(_RANKER_MEAN),
        np.array(_RANKER_DEVIATION),
        weight=1 / len(budgets),
    )
    return float(scale), float(slope)


def fit_conditional_logit(
    features: Sequence[Floats],
    targets: Sequence[int],
    mean: Floats,
    deviation: Floats,
    *,
    weight: float = 1.0,
) -> Floats:
    """Maximize the probability of the targets times a normal prior, with weights of at least 0.

    Args:
        features: Features of the items of each list, each [n_items, n_weights].
        targets: Row of the target in each list.
        mean: Means of the prior, not negative, [n_weights].
        deviation: Standard deviations of the prior, [n_weights].
        weight: Weight of each list.

    Returns:
        The weights, [n_weights]; the prior means if there are no lists.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - an extra

    if not targets:
        return np.asarray(mean, dtype=np.float64)
    stacked = np.concatenate(features) * deviation
    lengths = np.array([len(table) for table in features])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    chosen = stacked[starts + np.array(targets)]
    center = mean / deviation

    def loss(weights: Floats) -> tuple[float, Floats]:
        values = stacked @ weights
        top = np.maximum.reduceat(values, starts)
        odds = np.exp(values - np.repeat(top, lengths))
        total = np.add.reduceat(odds, starts)
        probabilities = odds / np.repeat(total, lengths)
        likelihood = weight * (chosen @ weights - top - np.log(total)).sum()
        slope = weight * (chosen.sum(axis=0) - probabilities @ stacked)
        prior = weights - center
        return float((prior**2).sum() / 2 - likelihood), prior - slope

    bounds = [(0.0, None)] * len(center)
    result = minimize(loss, center, jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(result.x * deviation, dtype=np.float64)
