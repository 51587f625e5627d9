"""Contract of metrics, tested for every metric in the registry."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_msr import registry
from mllm_msr.evaluation.metrics import Metric, configured
from mllm_msr.evaluation.per_user import chance, metrics_from_scores
from scored_candidates import ranked_list, score_table

METRICS = configured((1, 3, 5))
QUALITY = {name: metric for name, metric in METRICS.items() if not metric.is_diagnostic}


def lists_with_both_labels(max_size: int):
    row = st.tuples(st.integers(0, 2), st.integers(0, 1))
    return st.lists(row, min_size=2, max_size=max_size).filter(
        lambda rows: 0 < sum(label for _, label in rows) < len(rows)
    )


def value_of(metric, scores, labels):
    (value,) = metric.compute(ranked_list(scores, labels))
    return float(value)


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_a_metric_has_a_label_and_a_description(name):
    kind = registry.find("metrics", name)
    assert issubclass(kind, Metric)
    assert kind.label
    assert kind.description
    assert not (kind.is_diagnostic and kind.in_summary)


@pytest.mark.parametrize("name", QUALITY)
@settings(max_examples=25)
@given(rows=lists_with_both_labels(max_size=6))
def test_ties_count_with_the_mean_over_all_orders(name, rows):
    scores, labels = (list(column) for column in zip(*rows, strict=True))
    values = [
        value_of(METRICS[name], range(len(order), 0, -1), [labels[row] for row in order])
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    assert value_of(METRICS[name], scores, labels) == pytest.approx(np.mean(values))


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=25)
@given(rows=lists_with_both_labels(max_size=9))
def test_values_are_in_the_unit_interval(name, rows):
    scores, labels = (list(column) for column in zip(*rows, strict=True))
    assert 0.0 <= value_of(METRICS[name], scores, labels) <= 1.0 + 1e-12


@pytest.mark.parametrize("name", QUALITY)
def test_no_ranking_is_better_than_the_perfect_one(name):
    sign = 1 if METRICS[name].higher_is_better else -1
    perfect = sign * value_of(METRICS[name], [4, 3, 2, 1], [1, 1, 0, 0])
    for labels in itertools.permutations([1, 1, 0, 0]):
        assert perfect >= sign * value_of(METRICS[name], [4, 3, 2, 1], labels)


@pytest.mark.parametrize("name", QUALITY)
def test_chance_is_the_value_of_a_constant_score(name):
    constant = value_of(METRICS[name], [0.5] * 21, [1] + [0] * 20)
    assert constant == pytest.approx(chance([20], ks=(1, 3, 5))[name])


@pytest.mark.parametrize("name", METRICS)
def test_lists_do_not_affect_each_other(name):
    rng = np.random.default_rng(3)
    lists = [(rng.integers(0, 4, 12).tolist(), [1, 1] + [0] * 10) for _ in range(5)]
    alone = [value_of(METRICS[name], *entries) for entries in lists]
    together = pl.concat(
        score_table(scores, labels, user=f"u{user}") for user, (scores, labels) in enumerate(lists)
    )
    assert metrics_from_scores(together, ks=(1, 3, 5))[name].to_list() == alone
