"""Stacking: known weights are recovered, few targets give equal weights, useless members none."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines._ensemble.stacking import (
    Scaling,
    Stacking,
    _CandidateLists,
    equal_stacking,
    fit_stacking,
)
from mllm_msr.tables import CANDIDATES

N_USERS, N_CANDIDATES = 300, 6


def candidates(n_users=N_USERS):
    """Return lists of one target for each user; the first candidate is the positive."""
    user, item = np.divmod(np.arange(n_users * N_CANDIDATES), N_CANDIDATES)
    columns = {
        "fold": 0,
        "split": "test",
        "negatives": "uniform",
        "user_id": [f"u{at:04}" for at in user],
        "position": 3,
        "item_id": [f"i{at}" for at in item],
        "label": (item == 0).astype(int),
    }
    return pl.DataFrame(columns, schema=dict(CANDIDATES))


def noisy(strength, seed, *, n_users=N_USERS):
    """Return scores: standard normal noise, plus the strength for positives."""
    label = np.tile(np.arange(N_CANDIDATES) == 0, n_users)
    return strength * label + np.random.default_rng(seed).normal(size=len(label))


def fit(scores, **arguments):
    n_users = len(next(iter(scores.values()))) // N_CANDIDATES
    return fit_stacking(candidates(n_users), scores, **arguments)


def hits(scores):
    """Return the share of users whose positive has the highest score."""
    return np.mean(np.argmax(scores.reshape(-1, N_CANDIDATES), axis=1) == 0)


@pytest.mark.parametrize("ratio", [1.0, 2.0, 4.0])
def test_known_optimal_weights_are_recovered_from_many_targets(ratio):
    # With independent normal noise of equal size, the best weights are proportional to strengths.
    strengths = np.array([ratio, 1.0]) * 0.6
    scores = {str(at): noisy(s, at, n_users=6000) for at, s in enumerate(strengths)}
    stacking = fit(scores)
    first, second = (
        sum(weights) / scaling.deviation
        for weights, scaling in zip(stacking.weights, stacking.scalings, strict=True)
    )
    assert first / second == pytest.approx(ratio, rel=0.1)
    assert stacking.n_targets == 6000


def test_few_targets_give_nearly_equal_weights():
    def share(n_users):
        scores = {"good": noisy(2.0, 1, n_users=n_users), "bad": noisy(0.2, 2, n_users=n_users)}
        return fit(scores).shares()["good"]

    few, some, many = share(4), share(40), share(2000)
    assert 0.4 < few < 0.7
    assert few < some < many
    assert many > 0.85


def test_shrinkage_sets_how_equal_the_weights_are():
    scores = {"good": noisy(2.0, 1), "bad": noisy(0.2, 2)}
    shares = [fit(scores, shrinkage=value).shares()["good"] for value in (0.01, 10.0, 1e6)]
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] == pytest.approx(0.5, abs=1e-3)


def test_with_a_prior_few_targets_keep_the_weights_of_many():
    def some(n_users):
        return {"good": noisy(1.5, 1, n_users=n_users), "bad": noisy(0.1, 2, n_users=n_users)}

    prior = fit(some(3000))
    few = some(20) | {"slow": noisy(1.5, 3, n_users=20)}
    plain, informed = fit(few).shares(), fit(few, prior=prior).shares()
    assert prior.shares()["bad"] < 0.1
    assert informed["bad"] < 0.1 < plain["bad"]
    # The model that the prior lacks starts with the mean weight of the others.
    assert 0.25 < informed["slow"] < 0.6
    equal = fit(few, prior=equal_stacking(dict.fromkeys(["good", "bad"], prior.scalings[0])))
    assert equal.weights == fit(few).weights


def test_two_independent_models_are_better_together():
    stacking = fit({"one": noisy(1.0, 1), "two": noisy(1.0, 2)})
    test = {"one": noisy(1.0, 3), "two": noisy(1.0, 4)}
    assert hits(stacking.combine(test)) > max(hits(scores) for scores in test.values()) + 0.05
    assert stacking.likelihoods["combined"] > stacking.likelihoods["one"]


def test_a_noise_model_gets_a_small_share():
    stacking = fit({"one": noisy(1.5, 1, n_users=1000), "noise": noisy(0.0, 2, n_users=1000)})
    assert stacking.shares()["noise"] < 0.1
    assert stacking.likelihoods["combined"] > stacking.likelihoods["equal"]
    test = {"one": noisy(1.5, 3), "noise": noisy(0.0, 4)}
    assert abs(hits(stacking.combine(test)) - hits(test["one"])) < 0.03


def test_a_model_that_is_wrong_gets_no_negative_weight():
    stacking = fit({"one": noisy(1.0, 1, n_users=1000), "wrong": -noisy(2.0, 2, n_users=1000)})
    assert min(min(weights) for weights in stacking.weights) >= 0.0
    assert stacking.weights[1] == (0.0, 0.0)
    # A model without a weight may lack scores.
    rows = {"one": np.array([1.0, 2.0]), "wrong": np.array([np.nan, 0.0])}
    assert np.diff(stacking.combine(rows)) > 0


def test_units_do_not_matter():
    one, two = noisy(1.0, 1), noisy(1.0, 2)
    plain = fit({"one": one, "two": two})
    scaled = fit({"one": one, "two": two * 1e6 - 3})
    assert np.allclose(plain.weights, scaled.weights, atol=1e-3)


def test_weights_apply_to_scores_of_other_models_through_their_scalings():
    copies = {"one": noisy(1.0, 1), "two": noisy(1.0, 2)}
    models = {"one": noisy(1.0, 3) * 100 + 7, "two": noisy(1.0, 4)}
    scalings = {name: Scaling.of(scores) for name, scores in models.items()}
    stacking = fit(copies, scalings=scalings)
    assert stacking.scalings == tuple(scalings.values())
    assert stacking.weights == fit(copies).weights
    assert hits(stacking.combine(models)) > hits(models["one"]) + 0.05


def test_the_order_of_rows_does_not_matter():
    rows, scores = candidates(), {"one": noisy(1.0, 1), "two": noisy(1.0, 2)}
    order = np.random.default_rng(0).permutation(rows.height)
    shuffled = fit_stacking(rows[order], {name: values[order] for name, values in scores.items()})
    plain = fit_stacking(rows, scores)
    assert np.allclose(shuffled.weights, plain.weights, atol=1e-3)
    assert shuffled.n_targets == plain.n_targets


def test_two_lists_of_a_target_count_as_one():
    rows, scores = candidates(), {"one": noisy(2.0, 1), "two": noisy(0.5, 2)}
    twice = pl.concat([rows, rows.with_columns(negatives=pl.lit("popularity"))])
    both = fit_stacking(twice, {name: np.tile(values, 2) for name, values in scores.items()})
    plain = fit_stacking(rows, scores)
    assert both.n_targets == plain.n_targets == N_USERS
    assert np.allclose(both.weights, plain.weights, rtol=0.01)
    # Targets at other positions are further targets.
    later = pl.concat([rows, rows.with_columns(position=pl.lit(4, pl.Int32))])
    more = fit_stacking(later, {name: np.tile(values, 2) for name, values in scores.items()})
    assert more.n_targets == 2 * N_USERS


def test_lists_without_both_labels_and_rows_without_a_score_are_ignored():
    rows, scores = candidates(), {"one": noisy(1.0, 1), "two": noisy(1.0, 2)}
    kept = ~np.isin(rows["user_id"].to_numpy(), ["u0000", "u0001"])
    expected = fit_stacking(rows.filter(kept), {k: v[kept] for k, v in scores.items()})
    missing = scores | {"one": np.where(kept, scores["one"], np.nan)}
    found = fit_stacking(rows, missing)
    assert found.n_targets == N_USERS - 2
    assert np.allclose(found.weights, expected.weights, rtol=0.1)
    negative = pl.when(pl.Series(kept)).then("label").otherwise(0).cast(pl.Int8)
    assert fit_stacking(rows.with_columns(label=negative), scores).n_targets == N_USERS - 2


def test_without_targets_weights_are_equal():
    scalings = {"one": Scaling.of(noisy(1.0, 1)), "two": Scaling.of(noisy(1.0, 2) * 50)}
    stacking = equal_stacking(scalings)
    assert stacking.shares() == {"one": 0.5, "two": 0.5}
    assert stacking.n_targets == 0
    rows = candidates().with_columns(label=pl.lit(0, pl.Int8))
    unlabelled = fit_stacking(rows, {"one": noisy(1.0, 1), "two": noisy(1.0, 2)})
    assert (unlabelled.shares(), unlabelled.n_targets) == (stacking.shares(), 0)


def test_likelihood_and_gradient_by_hand_and_by_differences():
    features = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.5, 0.0], [0.0, 0.0]])
    starts = np.array([0, 2])
    labels = np.array([True, False, False, True, True])
    lists = _CandidateLists(features, labels, starts, np.array([0, 1]), np.array([0, 1]))
    weights = np.array([0.7, 0.2])
    values, gradient = lists.log_likelihood(weights)
    e = np.exp
    expected = [
        np.log(e(0.7) / (e(0.7) + 1)),
        np.log((e(0.35) + 1) / (e(0.2) + e(0.35) + 1)),
    ]
    assert values == pytest.approx(expected)
    for at in (0, 1):
        step = np.eye(2)[at] * 1e-6
        up, down = (lists.log_likelihood(weights + s)[0].sum() for s in (step, -step))
        assert gradient[at] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_normal_scores_increase_and_average_ties():
    scale = Scaling.of(np.array([0.0] * 60 + list(np.linspace(1, 2, 40))))
    standardized, ranked = scale.features([-1.0, 0.0, 1.2, 1.8, 9.0]).T
    assert (np.diff(standardized) > 0).all()
    assert ranked[0] == ranked[1] == pytest.approx(-0.52, abs=0.03)  # the middle of 60 %
    assert (np.diff(ranked[1:]) > 0).all()
    constant = Scaling.of(np.full(5, 2.0))
    assert constant.features([2.0]).tolist() == [[0.0, 0.0]]


def test_json_round_trip():
    stacking = fit({"one": noisy(1.0, 1), "two": noisy(1.0, 2)})
    again = Stacking.from_json(json.loads(json.dumps(stacking.to_json())))
    assert (again.weights, again.n_targets) == (stacking.weights, stacking.n_targets)
    rows = {"one": np.linspace(-2, 2, 7), "two": np.linspace(1, -1, 7)}
    assert np.array_equal(again.combine(rows), stacking.combine(rows))
