from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mllm_msr.errors import DataError
from mllm_msr.ranker.examples import Example, build_prompt
from mllm_msr.ranker.training.validation import auc_per_user, bind_metric
from mllm_msr.types import Item


def example(user: str, label: int, *, negatives: str = "uniform", position: int = 3) -> Example:
    prompt = build_prompt("calm", Item("i", "t"), item_type="item")
    return Example(0, "validation", negatives, user, position, "i", label, prompt)


def test_auc_matches_a_hand_computed_value() -> None:
    labels = np.array([1, 0, 0, 0, 1, 0, 1])
    scores = np.array([0.9, 0.1, 0.95, 0.9, 0.2, 0.3, 0.5])
    users = ["a", "a", "a", "a", "b", "b", "c"]
    # a: above one of three and tied with one: 1.5 / 3; b: 0; c has no negative and is left out.
    assert auc_per_user(labels, scores, users) == pytest.approx((0.5 + 0.0) / 2)


def test_auc_agrees_with_scikit_learn() -> None:
    noise = np.random.default_rng(0)
    users = [f"u{n % 7}" for n in range(210)]
    labels = (noise.random(210) < 0.3).astype(np.int64)
    scores = np.round(noise.random(210), 1)
    rows = [[n for n in range(210) if users[n] == user] for user in sorted(set(users))]
    expected = np.mean([roc_auc_score(labels[own], scores[own]) for own in rows])
    assert auc_per_user(labels, scores, users) == pytest.approx(expected)


def test_constant_scores_give_one_half_and_no_user_gives_nan() -> None:
    assert auc_per_user(np.array([1, 0, 0]), np.full(3, 0.7), ["a"] * 3) == 0.5
    assert math.isnan(auc_per_user(np.array([1, 1]), np.zeros(2), ["a", "b"]))


def test_targets_and_kinds_of_negatives_count_as_different_users() -> None:
    examples = [
        example("a", 1),
        example("a", 0),
        example("a", 1, negatives="popularity"),
        example("a", 0, negatives="popularity"),
        example("a", 1, position=6),
        example("a", 0, position=6),
    ]
    metric = bind_metric(examples, auc_per_user)
    assert metric is not None
    assert metric([0.2, 0.1, 0.9, 0.8, 0.05, 0.01]) == 1.0
    assert bind_metric([], auc_per_user) is None


def test_validation_without_negatives_is_rejected() -> None:
    with pytest.raises(DataError, match=r"\(2 examples, 2 of them positive\)"):
        bind_metric([example("a", 1), example("b", 1)], auc_per_user)
