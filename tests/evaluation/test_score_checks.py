"""Checks of score tables: the model and the faulty rows are named."""

from __future__ import annotations

import math

import polars as pl
import pytest

from mllm_msr.errors import DataError
from mllm_msr.evaluation.score_checks import (
    ROW,
    check_scores,
    check_unique_rows,
    rank_unscored_last,
)
from mllm_msr.tables import CANDIDATES, SCORES
from scored_candidates import score_table


def test_usable_scores_pass():
    scores = score_table([0.1, 0.2], [1, 0])
    check_scores(scores, model="gru")
    check_unique_rows(scores, model="gru")


def test_a_candidate_without_a_score_passes_and_ranks_last():
    frame = score_table([0.1, 0.2, -7.0], [1, 0, 0]).with_columns(
        score=pl.Series([None, 0.2, -7.0], dtype=pl.Float64)
    )
    check_scores(frame, model="gru")
    assert rank_unscored_last(frame)["score"].to_list() == [-math.inf, 0.2, -7.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_rejected_with_model_and_row(value):
    frame = score_table([0.1, 0.2], [1, 0], user="anna").with_columns(
        score=pl.Series([0.1, value], dtype=pl.Float64)
    )
    with pytest.raises(DataError, match=r"1 of 2 scores of the model 'gru' .*anna-i1"):
        check_scores(frame, model="gru")


def test_labels_other_than_0_and_1_are_rejected():
    with pytest.raises(DataError, match=r"1 labels in .* neither 0 nor 1, such as 2"):
        check_scores(score_table([0.1, 0.2], [2, 0]), model="gru")


def test_duplicate_rows_are_counted_and_shown():
    frame = score_table([0.1, 0.2], [1, 0], user="anna")
    with pytest.raises(DataError, match=r"'gru' contain 2 duplicate rows, such as .*anna-i0"):
        check_unique_rows(pl.concat([frame, frame[:1]]), model="gru")


def test_row_keys_are_columns_of_candidates_and_scores():
    assert set(ROW) <= set(CANDIDATES)
    assert set(ROW) <= set(SCORES)
