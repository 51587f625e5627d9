"""Pooled AUC: over all rows of a fold, averaged over folds and seeds."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from mllm_msr.evaluation.per_user import metrics_from_scores
from mllm_msr.evaluation.pooled_auc import pooled_auc, pooled_auc_by_model
from scored_candidates import score_table


def test_pooled_auc_is_that_of_all_rows_of_a_fold():
    rng = np.random.default_rng(5)
    parts = [
        score_table(rng.integers(0, 9, 21), [1] + [0] * 20, user=f"u{user}", fold=user % 2)
        for user in range(12)
    ]
    expected = np.mean(
        [
            roc_auc_score(pl.concat(parts[fold::2])["label"], pl.concat(parts[fold::2])["score"])
            for fold in (0, 1)
        ]
    )
    assert pooled_auc(pl.concat(parts)) == {"uniform": pytest.approx(expected)}
    per_user = metrics_from_scores(pl.concat(parts))["auc"].mean()
    assert abs(per_user - expected) > 1e-3


def test_pooled_auc_of_one_class_is_absent():
    assert pooled_auc(score_table([1, 2], [0, 0])) == {}


def test_seeds_of_a_model_are_averaged():
    right, wrong = score_table([2, 1], [1, 0]), score_table([1, 2], [1, 0])
    found = pooled_auc_by_model({"m@0": right, "other": right, "m@1": wrong})
    assert found == {"m": {"uniform": 0.5}, "other": {"uniform": 1.0}}


def test_candidates_without_a_score_rank_last():
    table = score_table([0.0] * 3, [1, 0, 0]).with_columns(
        score=pl.Series([None, 0.1, 0.2], dtype=pl.Float64)
    )
    assert pooled_auc(table) == {"uniform": 0.0}
