"""Rank of the first positive: its distribution over random orders of equal scores."""

from __future__ import annotations

import pytest

from mllm_msr.evaluation.metrics._first_positive import first_positive_ranks
from scored_candidates import ranked_list


def distribution(scores, labels, k):
    return [
        (int(rank[0]), float(probability[0]))
        for rank, probability in first_positive_ranks(ranked_list(scores, labels), k=k)
    ]


def test_without_ties_the_rank_is_certain():
    assert distribution([3, 2, 1], [0, 1, 1], k=3) == [(2, 1.0), (3, 0.0), (4, 0.0)]


def test_two_of_three_tied_rows_are_positive():
    found = distribution([1, 1, 1], [1, 1, 0], k=3)
    assert found == [(1, pytest.approx(2 / 3)), (2, pytest.approx(1 / 3)), (3, 0.0)]


def test_ranks_beyond_k_have_no_probability():
    assert sum(p for _, p in distribution([2, 1, 1], [0, 1, 0], k=2)) == pytest.approx(0.5)
