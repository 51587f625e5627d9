"""Fits of the weights of lists: planted weights, priors, and weights that stay not negative."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_msr.recommend.conditional_logit import (
    ValidationList,
    fit_conditional_logit,
    fit_generators,
    fit_ranker,
)
from mllm_msr.recommend.rank_fusion import Floats, reciprocal_ranks

FIXED = np.array([[1.0, 0.0], [1.0, 0.0], [0.3, 0.0]])


def draw(values: Floats, rng: np.random.Generator) -> int:
    """Return a row, drawn from the softmax of the values."""
    return int(np.argmax(values + rng.gumbel(size=len(values))))


def planted_lists(n_lists: int, weights: Floats, seed: int = 0) -> list[ValidationList]:
    """Return lists of 60 items in random rankings, whose targets follow the weights."""
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(n_lists):
        features = np.zeros((60, len(weights), 2))
        for column in range(len(weights)):
            order = rng.permutation(60)
            features[order, column, 0] = reciprocal_ranks(60)
            features[order, column, 1] = np.sort(rng.exponential(size=60))[::-1]
        target = draw((features * weights).sum(axis=(1, 2)), rng)
        lists.append(ValidationList(features, target))
    return lists


def test_planted_weights_are_recovered_from_many_users() -> None:
    weights = np.array([[300.0, 0.8], [500.0, 0.0], [0.0, 0.3]])
    fitted = fit_generators(planted_lists(6000, weights), FIXED)
    assert fitted[:, 1] == pytest.approx(weights[:, 1], abs=0.1)
    assert fitted[:2, 0] == pytest.approx(weights[:2, 0], rel=0.25)
    assert fitted[2, 0] < 60


def test_few_users_leave_the_weights_near_the_fixed_ones() -> None:
    fitted = fit_generators(planted_lists(6, np.array([[0.0, 0.0]] * 3)), FIXED)
    assert (fitted >= 0).all()
    assert fitted[0, 0] / max(fitted[1, 0], 1e-9) == pytest.approx(1.0, abs=0.7)
    none = fit_generators([ValidationList(np.zeros((4, 3, 2)), None)], FIXED)
    assert none / none[0, 0] == pytest.approx(FIXED)


def test_a_misleading_generator_gets_no_negative_weight() -> None:
    weights = np.array([[0.0, -2.0], [300.0, 0.0], [0.0, 0.0]])
    fitted = fit_generators(planted_lists(800, weights), FIXED)
    assert fitted[0].tolist() == [0.0, 0.0]


def ranker_lists(slope: float, n_lists: int = 1500) -> tuple[list[Floats], list[Floats], list[int]]:
    """Return values, logits of the first 20 of 40 items, and targets that follow the slope."""
    rng = np.random.default_rng(1)
    values, logits, targets = [], [], []
    for _ in range(n_lists):
        value = np.sort(rng.normal(size=40))[::-1]
        logit = rng.normal(-1.0, 2.0, size=40)
        targets.append(draw(value + slope * (logit + 1.0), rng))
        logit[20:] = np.nan
        values.append(value)
        logits.append(logit)
    return values, logits, targets


def test_the_slope_of_a_ranker_is_recovered() -> None:
    scale, slope = fit_ranker(*ranker_lists(0.7), budgets=[10, 20])
    assert (scale, slope) == pytest.approx((1.0, 0.7), abs=0.1)


@pytest.mark.parametrize("slope", [0.0, -1.0])
def test_a_ranker_that_does_not_help_changes_nothing(slope: float) -> None:
    _, fitted = fit_ranker(*ranker_lists(slope), budgets=[20])
    assert 0.0 <= fitted < 0.05


def test_the_prior_decides_without_lists() -> None:
    mean = np.array([2.0, 1.0])
    assert fit_conditional_logit([], [], mean, np.ones(2)).tolist() == [2, 1]
