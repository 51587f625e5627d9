"""Blending: what helps is used, what does not is left, rows are matched by key."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines._ensemble.stacking import Blend, Scale, _Choice, align, fit_blend
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


def blend_scores(validation, test):
    """The test candidates with the joint score, and the blend that validation users chose."""
    blend = fit_blend(validation)
    joined = align(test)
    score = blend.combine({part: joined[part].to_numpy() for part in blend.parts})
    return joined.with_columns(score=pl.Series(score)), blend


def hits(frame):
    best = frame.group_by("user_id").agg(pl.col("label").sort_by("score").last())
    return best["label"].mean()


def test_two_independent_models_are_better_together():
    validation = {"one": noisy(1.0, 1), "two": noisy(1.0, 2)}
    test = {"one": noisy(1.0, 3), "two": noisy(1.0, 4)}
    joint, blend = blend_scores(validation, test)
    assert blend.chosen == "combined"
    assert min(sum(weights) for weights in blend.weights) > 0.3
    assert hits(joint) > max(hits(frame) for frame in test.values()) + 0.05


def test_a_model_of_pure_noise_changes_next_to_nothing():
    test = {"one": noisy(1.5, 3), "noise": noisy(0.0, 4)}
    joint, blend = blend_scores({"one": noisy(1.5, 1), "noise": noisy(0.0, 2)}, test)
    assert sum(blend.weights[1]) < 0.1 * sum(blend.weights[0])
    assert abs(hits(joint) - hits(test["one"])) < 0.03


def test_few_users_are_enough_to_join_models_that_know_different_halves():
    def half(part, seed, n_users):
        """Knows the positives of every second user, and nothing of the others'."""
        known, blind = noisy(4.0, seed, n_users=n_users), noisy(0.0, seed, n_users=n_users)
        mine = pl.col("user_id").str.slice(1).cast(pl.Int64) % 2 == part
        return pl.concat([known.filter(mine), blind.filter(~mine)])

    few = {"even": half(0, 1, 16), "odd": half(1, 2, 16)}
    test = {"even": half(0, 3, N_USERS), "odd": half(1, 4, N_USERS)}
    joint, blend = blend_scores(few, test)
    assert blend.chosen == "combined"
    assert hits(joint) > max(hits(frame) for frame in test.values()) + 0.1


def test_one_model_speaks_alone_where_others_only_disturb():
    scores = {"one": noisy(3.0, 1, n_users=8)} | {
        f"noise {seed}": noisy(0.0, seed, n_users=8) for seed in range(2, 14)
    }
    blend = fit_blend(scores)
    assert blend.likelihoods["one"] > blend.likelihoods["combined"]
    assert blend.chosen == "one"
    assert all(weights == (0.0, 0.0) for weights in blend.weights[1:])
    rows = {name: np.array([5.0, -5.0]) for name in scores} | {"one": np.array([1.0, 2.0])}
    assert np.diff(blend.combine(rows)) > 0


def test_a_model_that_is_wrong_gets_no_negative_weight():
    worse = noisy(2.0, 2).with_columns(pl.col("score") * -1)
    blend = fit_blend({"one": noisy(1.0, 1), "wrong": worse})
    assert min(min(weights) for weights in blend.weights) >= 0.0
    assert blend.weights[1] == (0.0, 0.0)


def test_units_do_not_matter():
    one, two = noisy(1.0, 1), noisy(1.0, 2)
    plain = fit_blend({"one": one, "two": two})
    scaled = fit_blend({"one": one, "two": two.with_columns(pl.col("score") * 1e6 - 3)})
    assert np.allclose(plain.weights, scaled.weights, atol=1e-3)


def test_rows_are_matched_by_key():
    one, two = noisy(1.0, 1), noisy(1.0, 2)
    shuffled = two.sample(fraction=1.0, shuffle=True, seed=0)
    assert fit_blend({"one": one, "two": two}) == fit_blend({"one": one, "two": shuffled})


def test_other_rows_are_refused():
    with pytest.raises(DataError, match=r"1794 rows, 1794 of them the same: score both"):
        align({"one": noisy(1.0, 1), "two": noisy(1.0, 2)[6:]})
    with pytest.raises(DataError, match=r"data\.validation_fraction"):
        fit_blend({"one": table([], n_users=0), "two": table([], n_users=0)})


def test_likelihood_and_gradient_by_hand_and_by_differences():
    features = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.5, 0.0], [0.0, 0.0]])
    choice = _Choice(
        features, np.array([True, False, False, True, True]), np.array([0, 2]), np.array([0, 1])
    )
    weights = np.array([0.7, 0.2])
    values, gradient = choice.likelihood(weights, [0, 1])
    e = np.exp
    expected = [
        np.log(e(0.7) / (e(0.7) + 1)),
        np.log((e(0.35) + 1) / (e(0.2) + e(0.35) + 1)),
    ]
    assert values == pytest.approx(expected)
    for at in (0, 1):
        step = np.eye(2)[at] * 1e-6
        up, down = (choice.likelihood(weights + s, [0, 1])[0].mean() for s in (step, -step))
        assert gradient[at] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_normal_scores_rise_and_middle_ties():
    scale = Scale.of(np.array([0.0] * 60 + list(np.linspace(1, 2, 40))))
    standardised, ranked = scale.features([-1.0, 0.0, 1.2, 1.8, 9.0]).T
    assert (np.diff(standardised) > 0).all()
    assert ranked[0] == ranked[1] == pytest.approx(-0.52, abs=0.03)  # the middle of 60 %
    assert (np.diff(ranked[1:]) > 0).all()
    constant = Scale.of(np.full(5, 2.0))
    assert constant.features([2.0]).tolist() == [[0.0, 0.0]]


def test_users_of_one_class_teach_nothing():
    plain = {"one": noisy(1.0, 1), "two": noisy(1.0, 2)}
    more = {
        name: pl.concat([frame, frame.with_columns(user_id=pl.lit("x"), label=pl.lit(0, pl.Int8))
                         .unique(["user_id", "item_id"], maintain_order=True)])
        for name, frame in plain.items()
    }  # fmt: skip
    assert np.allclose(fit_blend(plain).weights, fit_blend(more).weights, atol=0.02)


def test_json_keeps_all():
    blend = fit_blend({"one": noisy(1.0, 1), "two": noisy(1.0, 2)})
    again = Blend.from_json(json.loads(json.dumps(blend.to_json())))
    rows = {"one": np.linspace(-2, 2, 7), "two": np.linspace(1, -1, 7)}
    assert np.array_equal(again.combine(rows), blend.combine(rows))
