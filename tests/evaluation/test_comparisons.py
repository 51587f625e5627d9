"""Paired comparisons: direction, common users, and correction for the number of tests."""

from __future__ import annotations

import polars as pl
import pytest

import scored_candidates
from mllm_msr.evaluation.evaluator import evaluate_scores
from mllm_msr.evaluation.metrics import summary_names
from scored_candidates import N_USERS, scored


@pytest.fixture
def test_rows():
    return scored_candidates.evaluated_rows()


def test_comparisons_name_the_better_model_and_correct_for_their_number(test_rows):
    models = {
        "good": scored(test_rows, signal=2.0),
        "noise": scored(test_rows, seed=1),
        "noise2": scored(test_rows, seed=2),
    }
    records = evaluate_scores(models, n_resamples=400).details["comparisons"]
    assert len(records) == 3 * 2 * len(summary_names())  # pairs, negatives, metrics
    by_pair = {
        (record["first"], record["second"]): record
        for record in records
        if record["metric"] == "auc" and record["negatives"] == "uniform"
    }
    clear, unclear = by_pair["good", "noise"], by_pair["noise", "noise2"]
    assert clear["difference"] > 0
    assert clear["p_holm"] < 0.05
    assert unclear["p_holm"] > 0.05
    assert clear["p_holm"] == pytest.approx(min(1, 3 * clear["p"]), abs=0.01)
    assert clear["n"] == N_USERS


def test_comparisons_use_common_users_only(test_rows):
    models = {
        "all": scored(test_rows),
        "few": scored(test_rows.filter(pl.col("user_id").is_in(["u1", "u2", "u3"])), seed=1),
    }
    records = evaluate_scores(models, n_resamples=50).details["comparisons"]
    assert {record["n"] for record in records} == {3}
