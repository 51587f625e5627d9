"""Precision@k: the share of the first k that are positives."""

from __future__ import annotations

import pytest

from mllm_msr.evaluation.metrics.precision import Precision
from scored_candidates import ranked_list


@pytest.mark.parametrize(("k", "value"), [(1, 0.0), (2, 1 / 2), (3, 1 / 3), (4, 2 / 4), (8, 2 / 8)])
def test_several_positives_by_hand(k, value):
    lists = ranked_list([4, 3, 2, 1], [0, 1, 0, 1])
    assert Precision(k).compute(lists).tolist() == [pytest.approx(value)]


def test_ties_by_hand():
    # Rank 1 is negative. Two of the three rows at ranks 2 to 4 are positive: 2/3 at each rank.
    lists = ranked_list([2, 1, 1, 1], [0, 1, 1, 0])
    assert Precision(1).compute(lists).tolist() == [0.0]
    assert Precision(3).compute(lists).tolist() == [pytest.approx(2 * (2 / 3) / 3)]
    assert Precision(4).compute(lists).tolist() == [pytest.approx(2 / 4)]
