"""Slices: bounds, means of the users in a slice, and no empty slices."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.evaluation.slices import HISTORY, LENGTHS, TARGET, TARGETS, slice_means, with_slices
from mllm_msr.tables import TARGET_PROFILES


def profiles(*rows):
    full = [(0, f"u{user}", "i", *row, 0.5) for user, row in enumerate(rows)]
    return pl.DataFrame(full, schema=dict(TARGET_PROFILES), orient="row")


@pytest.mark.parametrize(
    ("n_history", "slice_index"),
    [(0, 0), (5, 0), (6, 1), (10, 1), (11, 2), (20, 2), (21, 3), (50, 3), (51, 4), (999, 4)],
)
def test_bounds_of_histories(n_history, slice_index):
    assert with_slices(profiles((n_history, 9, 0.5)))[HISTORY][0] == LENGTHS[slice_index]


@pytest.mark.parametrize(
    ("n_target", "percentile", "slice_index"),
    [(0, 0.1, 0), (5, 0.5, 0), (6, 0.5, 1), (6, 0.9, 1), (6, 0.91, 2), (5, 0.95, 0)],
)
def test_cold_targets_are_cold_at_any_percentile(n_target, percentile, slice_index):
    assert with_slices(profiles((9, n_target, percentile)))[TARGET][0] == TARGETS[slice_index]


def test_means_are_over_the_users_of_the_slice():
    wide = {
        "ours": pl.DataFrame(
            {
                "fold": pl.Series([0, 0, 0], dtype=pl.Int32),
                "negatives": ["uniform"] * 3,
                "user_id": ["u0", "u1", "u2"],
                "auc": [1.0, 0.5, 0.0],
            }
        )
    }
    found = slice_means(
        wide,
        profiles((5, 2, 0.1), (3, 99, 0.99), (7, 2, 0.1)),
        metrics=["auc"],
        seed=0,
        n_resamples=50,
    )
    by_history = found[HISTORY]
    assert list(by_history) == [LENGTHS[0], LENGTHS[1]]
    cell = by_history[LENGTHS[0]]["ours"]["uniform"]["auc"]
    assert (cell["mean"], cell["n"]) == (0.75, 2)
    assert 0.5 <= cell["low"] <= cell["high"] <= 1.0
    assert list(found[TARGET]) == [TARGETS[0], TARGETS[2]]
    assert found[TARGET][TARGETS[0]]["ours"]["uniform"]["auc"]["mean"] == 0.5
