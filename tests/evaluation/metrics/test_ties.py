"""Ties: whether a positive has the score of a negative."""

from __future__ import annotations

import pytest

from mllm_msr.evaluation.metrics.ties import Ties
from scored_candidates import ranked_list


@pytest.mark.parametrize(
    ("scores", "labels", "tied"),
    [
        ([2, 1, 1], [1, 0, 0], 0.0),  # only negatives tie
        ([2, 2, 1], [1, 1, 0], 0.0),  # only positives tie
        ([3, 2, 2], [1, 1, 0], 1.0),
    ],
)
def test_only_ties_of_a_positive_with_a_negative_count(scores, labels, tied):
    assert Ties().compute(ranked_list(scores, labels)).tolist() == [tied]
