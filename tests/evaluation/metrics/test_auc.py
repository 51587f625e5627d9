"""AUC: share of the pairs that are ranked correctly."""

from __future__ import annotations

import pytest

from mllm_msr.evaluation.metrics.auc import AUC
from scored_candidates import ranked_list


def test_pairs_by_hand():
    # Positives at ranks 1 and 4 of 5: 3 + 1 of 6 pairs are ranked correctly.
    lists = ranked_list([5, 4, 3, 2, 1], [1, 0, 0, 1, 0])
    assert AUC().compute(lists).tolist() == [pytest.approx(4 / 6)]


def test_equal_scores_count_half():
    assert AUC().compute(ranked_list([2, 2, 1], [1, 0, 0])).tolist() == [0.75]
