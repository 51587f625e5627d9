"""Ranked lists: tie groups of score tables and of rank counts."""

from __future__ import annotations

import polars as pl

from mllm_msr.evaluation.ranked_lists import RankedLists


def rows(*lists):
    """Return the rows of lists of (score, label) in reverse order, so that only keys match."""
    flat = [
        (index, score, label) for index, entries in enumerate(lists) for score, label in entries
    ]
    schema = {"list": pl.UInt32, "score": pl.Float64, "label": pl.Int8}
    return pl.DataFrame(flat[::-1], schema=schema, orient="row")


def test_groups_without_a_positive_are_left_out():
    _, lists = RankedLists.from_scores(rows([(3, 0), (2, 1), (2, 0), (2, 1), (1, 0), (0, 1)]))
    assert lists.n_positives.tolist() == [3]
    assert lists.n_negatives.tolist() == [3]
    assert lists.list_index.tolist() == [0, 0]
    assert lists.n_before.tolist() == [1, 5]
    assert lists.size.tolist() == [3, 1]
    assert lists.positives.tolist() == [2, 1]
    assert lists.positives_before.tolist() == [0, 2]


def test_lists_with_one_class_are_counted_but_not_ranked():
    one_class, other_class, both = [(1, 1), (0, 1)], [(1, 0)], [(1, 0), (0, 1)]
    totals, lists = RankedLists.from_scores(rows(one_class, both, other_class, both))
    assert totals.rows() == [(0, 2, 0), (1, 1, 1), (2, 0, 1), (3, 1, 1)]
    assert lists.n_positives.tolist() == lists.n_negatives.tolist() == [1, 1]
    assert lists.list_index.tolist() == [0, 1]
    assert lists.n_before.tolist() == [1, 1]


def test_counts_describe_one_positive_per_list():
    lists = RankedLists.from_counts([0, 4], [0, 2], n_negatives=[5, 9])
    assert lists.n_before.tolist() == [0, 4]
    assert lists.size.tolist() == [1, 3]
    assert lists.positives.tolist() == [1, 1]
    assert lists.n_negatives.tolist() == [5, 9]


def test_sums_cover_all_groups_of_a_list():
    both = [(3, 1), (2, 0), (1, 1)]
    _, lists = RankedLists.from_scores(rows(both, [(2, 1), (1, 0)]))
    assert lists.sum_per_list([1.0, 10.0, 100.0]).tolist() == [11.0, 100.0]


def test_no_rows_give_no_lists():
    totals, lists = RankedLists.from_scores(rows())
    assert totals.height == 0
    assert lists.sum_per_list([]).tolist() == []
