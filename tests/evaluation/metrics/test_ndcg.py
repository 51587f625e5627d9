"""NDCG@k: discounted gain relative to the ideal ranking."""

from __future__ import annotations

import math

import pytest

from mllm_msr.evaluation.metrics.ndcg import NDCG
from scored_candidates import ranked_list


def test_several_positives_by_hand():
    lists = ranked_list([4, 3, 2, 1], [0, 1, 0, 1])
    ideal = 1 + 1 / math.log2(3)
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    assert NDCG(4).compute(lists).tolist() == [pytest.approx(gain / ideal)]
    assert NDCG(3).compute(lists).tolist() == [pytest.approx(1 / math.log2(3) / ideal)]


def test_the_ideal_has_no_more_positives_than_k():
    assert NDCG(1).compute(ranked_list([3, 2, 1], [1, 1, 0])).tolist() == [1.0]


def test_ties_by_hand():
    lists = ranked_list([1, 1, 1], [1, 0, 0])
    expected = (1 + 1 / math.log2(3)) / 3
    assert NDCG(2).compute(lists).tolist() == [pytest.approx(expected)]
