"""MAP@k: precision at the rank of each positive, averaged."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_msr.evaluation.metrics.map import AveragePrecision
from mllm_msr.evaluation.per_user import metrics_from_counts
from scored_candidates import ranked_list


def test_several_positives_by_hand():
    # Positives at ranks 2 and 4: precision 1/2 and 2/4.
    lists = ranked_list([4, 3, 2, 1], [0, 1, 0, 1])
    assert AveragePrecision(4).compute(lists).tolist() == [pytest.approx((1 / 2 + 2 / 4) / 2)]
    assert AveragePrecision(3).compute(lists).tolist() == [pytest.approx((1 / 2) / 2)]
    assert AveragePrecision(1).compute(lists).tolist() == [0.0]


def test_a_perfect_ranking_has_the_value_1_at_every_cut_off():
    lists = ranked_list([5, 4, 3, 2, 1], [1, 1, 1, 0, 0])
    for k in (1, 2, 3, 5):
        assert AveragePrecision(k).compute(lists).tolist() == [pytest.approx(1.0)]


def test_ties_by_hand():
    # Orders of the three tied rows (++-, +-+, -++) after a negative at rank 1:
    # (1/2 + 2/3) / 2, (1/2 + 2/4) / 2 and (1/3 + 2/4) / 2.
    lists = ranked_list([2, 1, 1, 1], [0, 1, 1, 0])
    expected = ((1 / 2 + 2 / 3) + (1 / 2 + 2 / 4) + (1 / 3 + 2 / 4)) / 2 / 3
    assert AveragePrecision(4).compute(lists).tolist() == [pytest.approx(expected)]


def test_one_positive_gives_the_reciprocal_rank():
    rng = np.random.default_rng(0)
    better, tied = rng.integers(0, 15, 200), rng.integers(0, 5, 200)
    values = metrics_from_counts(better, tied, n_negatives=20)
    for k in (1, 3, 5, 10, 20):
        np.testing.assert_array_equal(values[f"map@{k}"], values[f"mrr@{k}"])
