"""Coverage of the intervals, level of the tests, and Holm's correction by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mllm_msr.errors import DataError
from mllm_msr.evaluation.significance import (
    bootstrap_interval,
    bootstrap_intervals,
    compare,
    holm,
)


def test_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(0).normal(0.6, 0.2, size=(500, 2))
    low, high = bootstrap_interval(values, seed=1)
    half = 1.96 * values.std(axis=0) / np.sqrt(500)
    np.testing.assert_allclose(low, values.mean(axis=0) - half, atol=0.002)
    np.testing.assert_allclose(high, values.mean(axis=0) + half, atol=0.002)


def test_interval_has_about_its_nominal_coverage():
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.random((80, 1)), seed=trial, n_resamples=300)
        covered += bool(low[0] <= 0.5 <= high[0])
    assert 178 <= covered <= 199


def test_interval_is_deterministic_and_a_point_for_constant_values():
    values = np.random.default_rng(0).random((50, 1))
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    low, high = bootstrap_interval(np.full((9, 1), 0.25), seed=0)
    assert (low[0], high[0]) == (0.25, 0.25)


def test_interval_does_not_depend_on_the_memory_chunk(monkeypatch):
    values = np.random.default_rng(0).random((50, 1))
    whole = bootstrap_interval(values, seed=1, n_resamples=100)
    monkeypatch.setattr("mllm_msr.evaluation.significance._CHUNK_BYTES", 8 * 50 * 7)
    np.testing.assert_allclose(bootstrap_interval(values, seed=1, n_resamples=100), whole)


def test_intervals_of_several_tables_equal_those_of_each():
    rng = np.random.default_rng(2)
    tables = [rng.random((40, 3)), rng.random((40, 1))]
    together = bootstrap_intervals(tables, seed=3, n_resamples=100)
    for table, (low, high) in zip(tables, together, strict=True):
        alone = bootstrap_interval(table, seed=3, n_resamples=100)
        np.testing.assert_array_equal([low, high], alone)
    with pytest.raises(DataError, match=r"same users, but have \[5, 40\] rows"):
        bootstrap_intervals([tables[0], tables[1][:5]], seed=3)


def test_permutation_agrees_with_scipy():
    rng = np.random.default_rng(2)
    ours, theirs = rng.random((12, 1)) + 0.1, rng.random((12, 1))
    exact = stats.permutation_test(
        (ours[:, 0], theirs[:, 0]),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    found = compare(ours, theirs, seed=0, n_flips=20000)
    assert found.p_value[0] == pytest.approx(exact.pvalue, abs=0.01)


@pytest.mark.parametrize("test", ["permutation", "wilcoxon"])
def test_equal_models_are_not_significant(test):
    values = np.random.default_rng(0).random((30, 2))
    found = compare(values, values, seed=0, test=test)
    assert found.p_value.tolist() == [1.0, 1.0]
    assert found.difference.tolist() == found.better.tolist() == found.worse.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("test", ["permutation", "wilcoxon"])
def test_a_clear_difference_is_found_in_the_right_direction(test):
    rng = np.random.default_rng(0)
    theirs = rng.random((100, 1))
    found = compare(theirs + rng.normal(0.1, 0.1, (100, 1)), theirs, seed=0, test=test)
    assert found.p_value[0] < 0.001
    assert 0 < found.low[0] < found.difference[0] < found.high[0]
    assert found.better[0] > 0.5 > found.worse[0]
    assert found.n_users == 100


def test_permutation_test_keeps_its_level_under_the_null_hypothesis():
    rng = np.random.default_rng(5)
    values = compare(
        rng.random((40, 400)), rng.random((40, 400)), seed=0, n_resamples=10, n_flips=500
    )
    assert 0.02 < (values.p_value < 0.05).mean() < 0.09


def test_holm_by_hand():
    # Sorted .01 .02 .03 .20 times 4 3 2 1 = .04 .06 .06 .20, made non-decreasing.
    assert holm([0.20, 0.01, 0.03, 0.02]) == pytest.approx([0.20, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_unusable_values_are_rejected():
    with pytest.raises(DataError, match=r"at least one user, but have the shape \(0, 2\)"):
        bootstrap_interval(np.empty((0, 2)), seed=0)
    with pytest.raises(DataError, match=r"1 values are NaN or infinite"):
        bootstrap_interval([[0.1], [np.nan]], seed=0)
    with pytest.raises(DataError, match=r"shapes \(2, 1\) and \(3, 1\)"):
        compare(np.ones((2, 1)), np.ones((3, 1)), seed=0)
