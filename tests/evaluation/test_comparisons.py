"""Paired comparisons: direction, common users, and correction for the number of tests."""

from __future__ import annotations

import polars as pl
import pytest

import scored_candidates
from mllm_msr.evaluation.evaluator import evaluate_scores
from mllm_msr.evaluation.metrics import summary_names
from mllm_msr.evaluation.significance import holm
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


def test_the_main_model_has_a_family_of_its_own(test_rows):
    models = {
        "noise": scored(test_rows, seed=1),
        "main": scored(test_rows, signal=0.5, seed=3),
        "noise2": scored(test_rows, seed=2),
        "noise3": scored(test_rows, seed=4),
    }
    records = evaluate_scores(models, main="main", n_resamples=50).details["comparisons"]
    family = [r for r in records if r["metric"] == "auc" and r["negatives"] == "uniform"]
    own = [r for r in family if "main" in {r["first"], r["second"]}]
    assert [r["p_main"] for r in own] == holm([r["p"] for r in own]).tolist()
    assert [r["p_holm"] for r in family] == holm([r["p"] for r in family]).tolist()
    assert min(r["p_main"] for r in own) < min(r["p_holm"] for r in own)
    assert {r["p_main"] for r in family if r not in own} == {None}
    without = evaluate_scores(models, n_resamples=50).details["comparisons"]
    assert {r["p_main"] for r in without} == {None}  # there is no "mllm_msr"


def test_comparisons_use_common_users_only(test_rows):
    models = {
        "all": scored(test_rows),
        "few": scored(test_rows.filter(pl.col("user_id").is_in(["u1", "u2", "u3"])), seed=1),
    }
    records = evaluate_scores(models, n_resamples=50).details["comparisons"]
    assert {record["n"] for record in records} == {3}
