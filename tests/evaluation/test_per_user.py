"""Metrics per user: hand-computed tables, other libraries, keys, and unusable input."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.retrieval import (
    retrieval_average_precision,
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_precision,
    retrieval_reciprocal_rank,
)

from mllm_msr.errors import DataError
from mllm_msr.evaluation.metrics import metric_names
from mllm_msr.evaluation.per_user import (
    chance,
    metrics_from_counts,
    metrics_from_ranks,
    metrics_from_scores,
    rank_counts,
)
from scored_candidates import score_table

KS = (1, 3, 5)


def test_hand_computed_table():
    scores = pl.concat(
        [
            score_table([0.9, 0.8, 0.7, 0.6], [0, 1, 0, 0], user="second"),
            score_table([0.9, 0.8, 0.7, 0.6], [1, 0, 0, 0], user="first"),
            score_table([0.9, 0.8, 0.7, 0.6], [0, 0, 0, 1], user="last"),
            score_table([0.5, 0.5, 0.5, 0.1], [1, 0, 0, 0], user="tied"),
        ]
    )
    rows = {row["user_id"]: row for row in metrics_from_scores(scores, ks=KS).to_dicts()}
    assert rows["first"]["auc"] == rows["first"]["ndcg@3"] == rows["first"]["mrr@1"] == 1.0
    assert rows["second"]["auc"] == pytest.approx(2 / 3)
    assert rows["second"]["hr@1"] == 0.0
    assert rows["second"]["mrr@5"] == rows["second"]["map@5"] == 0.5
    assert rows["second"]["ndcg@5"] == pytest.approx(1 / math.log2(3))
    assert rows["last"]["auc"] == rows["last"]["hr@3"] == rows["last"]["mrr@3"] == 0.0
    assert rows["last"]["mrr@5"] == 0.25
    assert rows["last"]["precision@5"] == 0.2
    assert rows["tied"]["auc"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert rows["tied"]["hr@1"] == pytest.approx(1 / 3)
    assert rows["tied"]["mrr@3"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert [rows[user]["ties"] for user in ("first", "tied")] == [0.0, 1.0]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=2, max_size=9).filter(
        lambda rows: 0 < sum(label for _, label in rows) < len(rows)
    )
)
def test_auc_with_ties_agrees_with_scikit_learn(rows):
    scores, labels = (list(column) for column in zip(*rows, strict=True))
    found = metrics_from_scores(score_table(scores, labels), ks=KS).row(0, named=True)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, scores))


def test_a_constant_score_has_the_value_of_chance():
    found = metrics_from_scores(score_table([0.5] * 21, [1] + [0] * 20)).row(0, named=True)
    assert found["auc"] == 0.5
    assert found["hr@5"] == pytest.approx(5 / 21)
    assert found["mrr@5"] == pytest.approx(sum(1 / rank for rank in range(1, 6)) / 21)
    assert found["mrr@5"] == pytest.approx(0.109, abs=5e-4)
    assert found["ties"] == 1.0
    expected = chance([20, 20])
    assert set(found) - set(expected) >= {"ties"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value)


def test_chance_of_several_positives_is_that_of_a_constant_score():
    found = metrics_from_scores(score_table([0.5] * 9, [1] * 3 + [0] * 6)).row(0, named=True)
    for name, value in chance([6], n_positives=[3]).items():
        assert found[name] == pytest.approx(value), name


def test_chance_leaves_out_users_without_a_negative():
    assert chance([20, 0], ks=[5]) == chance([20], ks=[5])


@pytest.mark.parametrize("k", [1, 3, 5, 10, 20])
def test_other_libraries_agree_on_distinct_scores(k):
    rng = np.random.default_rng(k)
    for n_positives in (1, 1, 1, 3):
        labels = rng.permutation([1] * n_positives + [0] * 20)
        scores = rng.permutation(len(labels)) / len(labels)
        table = score_table(scores, labels.tolist())
        found = metrics_from_scores(table, ks=(k,)).row(0, named=True)
        predicted, target = torch.tensor(scores), torch.tensor(labels)
        for name, expected in (
            (f"hr@{k}", retrieval_hit_rate(predicted, target, top_k=k)),
            (f"mrr@{k}", retrieval_reciprocal_rank(predicted, target, top_k=k)),
            (f"ndcg@{k}", retrieval_normalized_dcg(predicted, target, top_k=k)),
            (f"precision@{k}", retrieval_precision(predicted, target, top_k=k)),
            ("auc", roc_auc_score(labels, scores)),
        ):
            assert found[name] == pytest.approx(float(expected), abs=1e-6), name
        # torchmetrics divides by the number of positives among the first k instead of min(k, n).
        n_hits = round(found[f"precision@{k}"] * k)
        theirs = float(retrieval_average_precision(predicted, target, top_k=k))
        scale = n_hits / min(k, n_positives)
        assert found[f"map@{k}"] == pytest.approx(theirs * scale, abs=1e-6)


def test_other_libraries_rank_ties_by_row_order():
    """Equal scores: AUC agrees; torchmetrics uses the order of the rows, which rewards it."""
    ours = metrics_from_scores(score_table([0.5] * 21, [1] + [0] * 20), ks=(1,)).row(0, named=True)
    first, last = torch.tensor([1] + [0] * 20), torch.tensor([0] * 20 + [1])
    flat = torch.full((21,), 0.5)
    theirs = {float(retrieval_hit_rate(flat, labels, top_k=1)) for labels in (first, last)}
    assert theirs <= {0.0, 1.0}
    assert ours["hr@1"] == pytest.approx(1 / 21)
    assert ours["auc"] == pytest.approx(roc_auc_score(first, flat))


def test_lists_are_identified_by_key_and_not_by_row_order():
    rng = np.random.default_rng(0)
    parts = [
        score_table(
            rng.integers(0, 4, 21), [1] + [0] * 20, user=f"u{user}", fold=user % 2, negatives=kind
        )
        for user in range(6)
        for kind in ("uniform", "popularity")
    ]
    together = pl.concat(parts)
    expected = pl.concat(metrics_from_scores(part) for part in parts)
    expected = expected.sort("fold", "negatives", "user_id")
    shuffled = metrics_from_scores(together.sample(fraction=1.0, shuffle=True, seed=1))
    assert shuffled.equals(expected)
    dropped = metrics_from_scores(together[1:])
    assert dropped.filter(user_id="u5").equals(expected.filter(user_id="u5"))


def test_counts_and_scores_give_the_same_metrics():
    rng = np.random.default_rng(1)
    scores = pl.concat(
        score_table(rng.integers(0, 6, 15), [1] + [0] * 14, user=f"u{user}") for user in range(30)
    )
    from_ranks = metrics_from_ranks(rank_counts(scores))
    assert from_ranks.equals(metrics_from_scores(scores))


@pytest.mark.parametrize(("scores", "labels"), [([1, 2], [0, 0]), ([1, 2], [1, 1]), ([1], [1])])
def test_a_list_with_one_class_has_no_value(scores, labels):
    found = metrics_from_scores(score_table(scores, labels)).row(0, named=True)
    assert all(math.isnan(found[name]) for name in metric_names())


def test_undefined_lists_do_not_affect_the_others():
    good = score_table([2, 1], [1, 0], user="m")
    bad = [score_table([1, 2], [1, 1], user="a"), score_table([1, 2], [0, 0], user="z")]
    found = metrics_from_scores(pl.concat([*bad, good]))
    assert found.filter(user_id="m").equals(metrics_from_scores(good))
    assert found["user_id"].to_list() == ["a", "m", "z"]
    assert found.select("n_positives", "n_negatives").rows() == [(2, 0), (1, 1), (0, 2)]


def test_counts_without_negatives_have_no_value():
    values = metrics_from_counts([0, 0], [0, 0], n_negatives=[0, 4], ks=KS)
    assert all(np.isnan(value[0]) for value in values.values())
    assert values["auc"][1] == 1.0


def test_an_empty_table_gives_an_empty_table():
    assert metrics_from_scores(score_table([], [])).height == 0


def test_inconsistent_counts_are_rejected():
    with pytest.raises(DataError, match="row 1: 3 better and 1 tied of 3 negatives"):
        metrics_from_counts([0, 3], [0, 1], n_negatives=3)


def test_duplicate_ranks_of_a_user_are_rejected():
    ranks = rank_counts(score_table([1, 0], [1, 0]))
    with pytest.raises(DataError, match="contain 2 duplicate rows"):
        metrics_from_ranks(pl.concat([ranks, ranks]))


def test_rank_counts_needs_exactly_one_positive():
    with pytest.raises(DataError, match=r"1 lists in .* do not have exactly one positive"):
        rank_counts(score_table([1, 0], [1, 1]))


@pytest.mark.parametrize(
    ("scores", "auc", "hr"),
    [
        ([None, 0.2, 0.9], 0.0, 0.0),  # the positive is ranked below all scored negatives
        ([0.1, None, 0.9], 0.5, 0.0),
        ([0.9, None, None], 1.0, 1.0),
        ([None, None, 0.4], 0.25, 0.0),  # a tie with the other candidate without a score
    ],
)
def test_candidates_without_a_score_rank_last(scores, auc, hr):
    table = score_table([0.0] * 3, [1, 0, 0]).with_columns(
        score=pl.Series(scores, dtype=pl.Float64)
    )
    (row,) = metrics_from_scores(table, ks=[1]).rows(named=True)
    assert (row["auc"], row["hr@1"]) == (auc, hr)
    ranks = metrics_from_ranks(rank_counts(table), ks=[1]).row(0, named=True)
    assert (ranks["auc"], ranks["hr@1"]) == (auc, hr)
