"""MRR@k: the inverse rank of the first positive."""

from __future__ import annotations

import pytest

from mllm_msr.evaluation.metrics.mrr import ReciprocalRank
from scored_candidates import ranked_list


@pytest.mark.parametrize(("k", "value"), [(1, 0.0), (2, 0.5), (4, 0.5)])
def test_the_first_positive_decides(k, value):
    assert ReciprocalRank(k).compute(ranked_list([4, 3, 2, 1], [0, 1, 0, 1])).tolist() == [value]


def test_ties_by_hand():
    # The positive is at rank 2, 3 or 4 with equal probability; rank 4 is beyond the cut-off.
    lists = ranked_list([2, 1, 1, 1], [0, 1, 0, 0])
    assert ReciprocalRank(3).compute(lists).tolist() == [pytest.approx((1 / 2 + 1 / 3) / 3)]
