"""Metrics against hand-computed tables, brute force over tie orders and other libraries."""

from __future__ import annotations

import itertools
import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_reciprocal_rank,
)

from mllm_msr.errors import DataError
from mllm_msr.evaluation.metrics import (
    chance,
    metric_names,
    metrics_from_counts,
    metrics_from_ranks,
    metrics_from_scores,
    pooled_auc,
    rank_counts,
)
from mllm_msr.tables import SCORES, conform

KS = (1, 3, 5)


def table(scores, labels, *, user="u", fold=0, negatives="uniform"):
    n = len(scores)
    return conform(
        pl.DataFrame(
            {
                "fold": [fold] * n,
                "negatives": [negatives] * n,
                "user_id": [user] * n,
                "item_id": [f"{user}-i{at}" for at in range(n)],
                "label": labels,
                "score": [float(score) for score in scores],
            }
        ),
        SCORES,
        name="test",
    )


def in_order(labels, k):
    """HR, MRR and NDCG of labels that stand in ranked order."""
    first = next((at for at, label in enumerate(labels[:k]) if label), None)
    gain = sum(label / math.log2(at + 2) for at, label in enumerate(labels[:k]))
    best = sum(1 / math.log2(at + 2) for at in range(min(k, sum(labels))))
    return float(first is not None), 0.0 if first is None else 1 / (first + 1), gain / best


def brute_force(scores, labels, k):
    """Mean over every order of the rows that the scores allow."""
    values = [
        in_order([labels[at] for at in order], k)
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return np.mean(values, axis=0)


def test_hand_computed_table():
    scores = pl.concat(
        [
            table([0.9, 0.8, 0.7, 0.6], [0, 1, 0, 0], user="second"),
            table([0.9, 0.8, 0.7, 0.6], [1, 0, 0, 0], user="first"),
            table([0.9, 0.8, 0.7, 0.6], [0, 0, 0, 1], user="last"),
            table([0.5, 0.5, 0.5, 0.1], [1, 0, 0, 0], user="tied"),
        ]
    )
    rows = {row["user_id"]: row for row in metrics_from_scores(scores, ks=KS).to_dicts()}
    assert rows["first"]["auc"] == rows["first"]["ndcg@3"] == rows["first"]["mrr@1"] == 1.0
    assert rows["second"]["auc"] == pytest.approx(2 / 3)
    assert rows["second"]["hr@1"] == 0.0
    assert rows["second"]["mrr@5"] == 0.5
    assert rows["second"]["ndcg@5"] == pytest.approx(1 / math.log2(3))
    assert rows["last"]["auc"] == rows["last"]["hr@3"] == rows["last"]["mrr@3"] == 0.0
    assert rows["last"]["mrr@5"] == 0.25
    assert rows["tied"]["auc"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert rows["tied"]["hr@1"] == pytest.approx(1 / 3)
    assert rows["tied"]["mrr@3"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert [rows[user]["ties"] for user in ("first", "tied")] == [0.0, 1.0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=2, max_size=6
    ).filter(lambda rows: 0 < sum(label for _, label in rows) < len(rows))
)  # fmt: skip
def test_ties_are_the_expectation_over_all_orders(rows):
    scores, labels = (list(column) for column in zip(*rows, strict=True))
    found = metrics_from_scores(table(scores, labels), ks=KS).row(0, named=True)
    for k in KS:
        expected = brute_force(scores, labels, k)
        assert [found[f"{name}@{k}"] for name in ("hr", "mrr", "ndcg")] == pytest.approx(expected)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, scores))


def test_a_constant_score_earns_chance():
    found = metrics_from_scores(table([0.5] * 21, [1] + [0] * 20)).row(0, named=True)
    assert found["auc"] == 0.5
    assert found["hr@5"] == pytest.approx(5 / 21)
    assert found["mrr@5"] == pytest.approx(sum(1 / rank for rank in range(1, 6)) / 21)
    assert found["mrr@5"] == pytest.approx(0.109, abs=5e-4)
    assert found["ties"] == 1.0
    for name, value in chance([20, 20]).items():
        assert found[name] == pytest.approx(value)


@pytest.mark.parametrize("k", [1, 3, 5, 10, 20])
def test_other_libraries_agree_on_distinct_scores(k):
    rng = np.random.default_rng(k)
    for n_positives in (1, 1, 1, 3):
        labels = rng.permutation([1] * n_positives + [0] * 20)
        scores = rng.permutation(len(labels)) / len(labels)
        found = metrics_from_scores(table(scores, labels.tolist()), ks=(k,)).row(0, named=True)
        predicted, target = torch.tensor(scores), torch.tensor(labels)
        for name, theirs in (
            ("hr", retrieval_hit_rate(predicted, target, top_k=k)),
            ("mrr", retrieval_reciprocal_rank(predicted, target, top_k=k)),
            ("ndcg", retrieval_normalized_dcg(predicted, target, top_k=k)),
            ("auc", roc_auc_score(labels, scores)),
        ):
            ours = found["auc" if name == "auc" else f"{name}@{k}"]
            assert ours == pytest.approx(float(theirs), abs=1e-6), name


def test_where_other_libraries_differ_on_ties():
    """Equal scores: AUC agrees, torchmetrics ranks by the rows' order and so rewards it."""
    ours = metrics_from_scores(table([0.5] * 21, [1] + [0] * 20), ks=(1,)).row(0, named=True)
    first, last = torch.tensor([1] + [0] * 20), torch.tensor([0] * 20 + [1])
    flat = torch.full((21,), 0.5)
    theirs = {float(retrieval_hit_rate(flat, labels, top_k=1)) for labels in (first, last)}
    assert theirs <= {0.0, 1.0}
    assert ours["hr@1"] == pytest.approx(1 / 21)
    assert ours["auc"] == pytest.approx(roc_auc_score(first, flat))


def test_pooled_auc_is_that_of_all_rows_of_a_fold():
    rng = np.random.default_rng(5)
    parts = [
        table(rng.integers(0, 9, 21), [1] + [0] * 20, user=f"u{at}", fold=at % 2)
        for at in range(12)
    ]
    expected = np.mean(
        [
            roc_auc_score(pl.concat(parts[fold::2])["label"], pl.concat(parts[fold::2])["score"])
            for fold in (0, 1)
        ]
    )
    assert pooled_auc(pl.concat(parts)) == {"uniform": pytest.approx(expected)}
    per_user = metrics_from_scores(pl.concat(parts))["auc"].mean()
    assert abs(per_user - expected) > 1e-3


def test_pooled_auc_of_one_class_is_absent():
    assert pooled_auc(table([1, 2], [0, 0])) == {}


def test_groups_are_told_apart_by_key_whatever_the_order_of_rows():
    rng = np.random.default_rng(0)
    parts = [
        table(
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


def test_counts_and_scores_are_two_forms_of_one_metric():
    rng = np.random.default_rng(1)
    scores = pl.concat(
        table(rng.integers(0, 6, 15), [1] + [0] * 14, user=f"u{user}") for user in range(30)
    )
    from_ranks = metrics_from_ranks(rank_counts(scores))
    from_scores = metrics_from_scores(scores)
    for name in metric_names():
        np.testing.assert_allclose(from_ranks[name], from_scores[name], err_msg=name)


@pytest.mark.parametrize(("scores", "labels"), [([1, 2], [0, 0]), ([1, 2], [1, 1]), ([1], [1])])
def test_one_class_has_no_value(scores, labels):
    found = metrics_from_scores(table(scores, labels)).row(0, named=True)
    assert all(math.isnan(found[name]) for name in metric_names())


def test_no_negatives_have_no_value_in_counts_either():
    values = metrics_from_counts([0], [0], n_negatives=[0], ks=KS)
    assert all(np.isnan(value).all() for value in values.values())


def test_an_empty_table_gives_an_empty_one():
    assert metrics_from_scores(table([], [])).height == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_unusable_scores_are_refused_with_model_and_row(value):
    frame = table([0.1, 0.2], [1, 0], user="anna").with_columns(
        score=pl.Series([0.1, value], dtype=pl.Float64)
    )
    with pytest.raises(DataError, match=r"finite scores of the model 'gru'.* 1 of 2 .*anna-i1"):
        metrics_from_scores(frame, model="gru")


def test_strange_labels_are_refused():
    with pytest.raises(DataError, match=r"labels 0 or 1 .* received 1 others, such as 2"):
        metrics_from_scores(table([0.1, 0.2], [2, 0]))


def test_impossible_counts_are_refused():
    with pytest.raises(DataError, match="better 3, tied 1, negatives 3 at row 1"):
        metrics_from_counts([0, 3], [0, 1], n_negatives=3)


def test_ranks_of_one_user_may_not_come_twice():
    ranks = rank_counts(table([1, 0], [1, 0]))
    with pytest.raises(DataError, match="2 rows of groups that occur twice"):
        metrics_from_ranks(pl.concat([ranks, ranks]))


def test_rank_counts_wants_one_positive():
    with pytest.raises(DataError, match=r"exactly one positive .* 1 groups with another number"):
        rank_counts(table([1, 0], [1, 1]))
