"""HR@k: whether a positive is among the first k."""

from __future__ import annotations

import pytest

from mllm_msr.evaluation.metrics.hr import HitRate
from scored_candidates import ranked_list


@pytest.mark.parametrize(("k", "hit"), [(1, 0.0), (2, 1.0), (3, 1.0)])
def test_the_first_positive_decides(k, hit):
    assert HitRate(k).compute(ranked_list([4, 3, 2, 1], [0, 1, 0, 1])).tolist() == [hit]


def test_ties_by_hand():
    # Two of four equal rows are positive: P(no positive among the first two) = 2/4 * 1/3.
    lists = ranked_list([1, 1, 1, 1], [1, 1, 0, 0])
    assert HitRate(2).compute(lists).tolist() == [pytest.approx(1 - 1 / 6)]
