"""Stacking: useful members get weight, useless ones do not, and rows are matched by key."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines._ensemble.stacking import (
    Scaling,
    Stacking,
    _CandidateLists,
    align,
    equal_stacking,
    fit_stacking,
)
from mllm_msr.errors import DataError
from mllm_msr.tables import SCORES

N_USERS, N_CANDIDATES = 300, 6


def table(score, *, n_users=N_USERS):
    """The first of each user's candidates is the positive."""
    user, item = np.divmod(np.arange(n_users * N_CANDIDATES), N_CANDIDATES)
    columns = {
        "fold": 0,
        "negatives": "uniform",
        "user_id": [f"u{at}" for at in user],
        "item_id": [f"i{at}" for at in item],
        "label": (item == 0).astype(int),
        "score": score,
    }
    return pl.DataFrame(columns, schema=dict(SCORES))


def noisy(strength, seed, *, n_users=N_USERS):
    rng = np.random.default_rng(seed)
    label = np.tile(np.arange(N_CANDIDATES) == 0, n_users)
    return table(strength * label + rng.normal(size=n_users * N_CANDIDATES), n_users=n_users)


def stack_scores(validation, test):
    """Return the test candidates with the combined score, and the fitted stacking."""
    stacking = fit_stacking(validation)
    joined = align(test)
    score = stacking.combine({part: joined[part].to_numpy() for part in stacking.members})
    return joined.with_columns(score=pl.Series(score)), stacking


def hits(frame):
    best = frame.group_by("user_id").agg(pl.col("label").sort_by("score").last())
    return best["label"].mean()


def test_two_independent_models_are_better_together():
    validation = {"one": noisy(1.0, 1), "two": noisy(1.0, 2)}
    test = {"one": noisy(1.0, 3), "two": noisy(1.0, 4)}
    combined, stacking = stack_scores(validation, test)
    assert stacking.selected == "combined"
    assert min(sum(weights) for weights in stacking.weights) > 0.3
    assert hits(combined) > max(hits(frame) for frame in test.values()) + 0.05


def test_a_noise_model_gets_a_weight_near_zero():
    test = {"one": noisy(1.5, 3), "noise": noisy(0.0, 4)}
    combined, stacking = stack_scores({"one": noisy(1.5, 1), "noise": noisy(0.0, 2)}, test)
    assert sum(stacking.weights[1]) < 0.1 * sum(stacking.weights[0])
    assert abs(hits(combined) - hits(test["one"])) < 0.03


def test_few_users_suffice_to_combine_complementary_models():
    def half(part, seed, n_users):
        """Return scores that are informative for every second user only."""
        known, blind = noisy(4.0, seed, n_users=n_users), noisy(0.0, seed, n_users=n_users)
        mine = pl.col("user_id").str.slice(1).cast(pl.Int64) % 2 == part
        return pl.concat([known.filter(mine), blind.filter(~mine)])

    few = {"even": half(0, 1, 16), "odd": half(1, 2, 16)}
    test = {"even": half(0, 3, N_USERS), "odd": half(1, 4, N_USERS)}
    combined, stacking = stack_scores(few, test)
    assert stacking.selected == "combined"
    assert hits(combined) > max(hits(frame) for frame in test.values()) + 0.1


def test_the_best_model_is_used_alone_if_the_others_are_noise():
    scores = {"one": noisy(3.0, 1, n_users=8)} | {
        f"noise {seed}": noisy(0.0, seed, n_users=8) for seed in range(2, 14)
    }
    stacking = fit_stacking(scores)
    assert stacking.likelihoods["one"] > stacking.likelihoods["combined"]
    assert stacking.selected == "one"
    assert all(weights == (0.0, 0.0) for weights in stacking.weights[1:])
    rows = {name: np.array([5.0, -5.0]) for name in scores} | {"one": np.array([1.0, 2.0])}
    assert np.diff(stacking.combine(rows)) > 0


def test_a_model_that_is_wrong_gets_no_negative_weight():
    worse = noisy(2.0, 2).with_columns(pl.col("score") * -1)
    stacking = fit_stacking({"one": noisy(1.0, 1), "wrong": worse})
    assert min(min(weights) for weights in stacking.weights) >= 0.0
    assert stacking.weights[1] == (0.0, 0.0)


def test_units_do_not_matter():
    one, two = noisy(1.0, 1), noisy(1.0, 2)
    plain = fit_stacking({"one": one, "two": two})
    scaled = fit_stacking({"one": one, "two": two.with_columns(pl.col("score") * 1e6 - 3)})
    assert np.allclose(plain.weights, scaled.weights, atol=1e-3)


def test_rows_are_matched_by_key():
    one, two = noisy(1.0, 1), noisy(1.0, 2)
    shuffled = two.sample(fraction=1.0, shuffle=True, seed=0)
    assert fit_stacking({"one": one, "two": two}) == fit_stacking({"one": one, "two": shuffled})


def test_scores_of_different_rows_are_rejected():
    with pytest.raises(DataError, match=r"scored 1794 rows, 1794 of which are among"):
        align({"one": noisy(1.0, 1), "two": noisy(1.0, 2)[6:]})
    with pytest.raises(DataError, match=r"data\.validation_fraction"):
        fit_stacking({"one": table([], n_users=0), "two": table([], n_users=0)})


def test_likelihood_and_gradient_by_hand_and_by_differences():
    features = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.5, 0.0], [0.0, 0.0]])
    lists = _CandidateLists(
        features, np.array([True, False, False, True, True]), np.array([0, 2]), np.array([0, 1])
    )
    weights = np.array([0.7, 0.2])
    values, gradient = lists.log_likelihood(weights, [0, 1])
    e = np.exp
    expected = [
        np.log(e(0.7) / (e(0.7) + 1)),
        np.log((e(0.35) + 1) / (e(0.2) + e(0.35) + 1)),
    ]
    assert values == pytest.approx(expected)
    for at in (0, 1):
        step = np.eye(2)[at] * 1e-6
        up, down = (lists.log_likelihood(weights + s, [0, 1])[0].mean() for s in (step, -step))
        assert gradient[at] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_normal_scores_increase_and_average_ties():
    scale = Scaling.of(np.array([0.0] * 60 + list(np.linspace(1, 2, 40))))
    standardized, ranked = scale.features([-1.0, 0.0, 1.2, 1.8, 9.0]).T
    assert (np.diff(standardized) > 0).all()
    assert ranked[0] == ranked[1] == pytest.approx(-0.52, abs=0.03)  # the middle of 60 %
    assert (np.diff(ranked[1:]) > 0).all()
    constant = Scaling.of(np.full(5, 2.0))
    assert constant.features([2.0]).tolist() == [[0.0, 0.0]]


def test_users_with_one_class_are_ignored():
    plain = {"one": noisy(1.0, 1), "two": noisy(1.0, 2)}
    more = {
        name: pl.concat([frame, frame.with_columns(user_id=pl.lit("x"), label=pl.lit(0, pl.Int8))
                         .unique(["user_id", "item_id"], maintain_order=True)])
        for name, frame in plain.items()
    }  # fmt: skip
    assert np.allclose(fit_stacking(plain).weights, fit_stacking(more).weights, atol=0.02)


def test_rows_without_a_score_do_not_change_the_others():
    first, second = noisy(1.0, 1), noisy(1.0, 2)
    missing = pl.col("user_id").is_in(["u0", "u1"])
    partly = first.with_columns(score=pl.when(~missing).then("score"))
    kept = {"a": first.filter(~missing), "b": second.filter(~missing)}
    assert align({"a": partly, "b": second}).equals(align(kept))
    assert np.allclose(
        fit_stacking({"a": partly, "b": second}).weights, fit_stacking(kept).weights, rtol=0.1
    )
    stacking = equal_stacking({"a": partly, "b": second})
    combined = stacking.combine({"a": partly["score"].to_numpy(), "b": second["score"].to_numpy()})
    assert np.isnan(combined).tolist() == partly["score"].is_null().to_list()


def test_json_round_trip():
    stacking = fit_stacking({"one": noisy(1.0, 1), "two": noisy(1.0, 2)})
    again = Stacking.from_json(json.loads(json.dumps(stacking.to_json())))
    rows = {"one": np.linspace(-2, 2, 7), "two": np.linspace(1, -1, 7)}
    assert np.array_equal(again.combine(rows), stacking.combine(rows))
