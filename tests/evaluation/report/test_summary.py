"""Summary: the rank of the main model in words, and the best model in every tile."""

from __future__ import annotations

import pytest

from mllm_msr.evaluation.report.summary import build_tiles
from mllm_msr.evaluation.report.tables import result_tables, verdicts

LABELS = {"mllm_msr": "MLLM-MSR", "zero_shot": "Zero-shot", "item_knn": "Item-kNN"}
CHANCE = {kind: {"auc": 0.5} for kind in ("uniform", "popularity", "full")}


def entry(mean):
    return {"auc": {"mean": mean, "low": mean - 0.02, "high": mean + 0.02, "n": 300}}


def comparison(first, second, difference, p, kind="uniform"):
    return {
        "negatives": kind, "metric": "auc", "first": first, "second": second,
        "difference": difference, "low": difference - 0.1, "high": difference + 0.1,
        "better": 0.5, "worse": 0.4, "n": 300, "p": p, "p_holm": p, "p_main": None,
    }  # fmt: skip


def tiles(means, comparisons=(), *, kind="uniform", chance=CHANCE):
    metrics = {model: {kind: entry(mean)} for model, mean in means.items()}
    tables = result_tables(metrics, chance=chance, main="mllm_msr")
    return build_tiles(tables, verdicts(comparisons, main="mllm_msr"), labels=LABELS)


def test_a_better_baseline_is_named_and_shown_first():
    (tile,) = tiles(
        {"mllm_msr": 0.853, "zero_shot": 0.811, "item_knn": 0.895, "popularity": 0.58},
        [
            comparison("item_knn", "mllm_msr", 0.042, 0.134),
            comparison("mllm_msr", "zero_shot", 0.042, 0.013),
        ],
    )
    assert tile.sentences == (
        "MLLM-MSR ranks 2nd of 4 models (AUC 0.853).",
        "Item-kNN, the best model, is 0.042 ahead (not significant, p = 0.134).",
        "MLLM-MSR is 0.042 ahead of Zero-shot (p = 0.013).",
    )
    assert [bar.model for bar in tile.bars] == ["item_knn", "mllm_msr", "zero_shot", "random"]
    assert tile.row.model == "mllm_msr"


def test_the_winner_is_compared_with_the_next_best():
    (tile,) = tiles(
        {"mllm_msr": 0.9, "zero_shot": 0.8, "sasrec": 0.85},
        [comparison("mllm_msr", "sasrec", 0.05, 0.0001)],
    )
    assert tile.sentences == (
        "MLLM-MSR ranks 1st of 3 models (AUC 0.900).",
        "It is 0.050 ahead of sasrec, the next best (p < 0.001).",
    )


def test_a_main_model_below_the_top_three_is_shown_as_well():
    means = {f"m{n}": 0.9 - n / 100 for n in range(5)} | {"mllm_msr": 0.6}
    (tile,) = tiles(means)
    assert [bar.model for bar in tile.bars] == ["m0", "m1", "m2", "mllm_msr", "random"]
    assert tile.sentences == ("MLLM-MSR ranks 6th of 6 models (AUC 0.600).",)


def test_an_interval_at_random_order_is_stated():
    (tile,) = tiles({"mllm_msr": 0.51, "sasrec": 0.4})
    assert (
        tile.sentences[-1] == "MLLM-MSR is not significantly better than random order (AUC 0.500)."
    )


def test_a_single_model_has_no_rank():
    (tile,) = tiles({"mllm_msr": 0.7}, [])
    assert tile.sentences == ("MLLM-MSR is the only ranked model (AUC 0.700).",)


@pytest.mark.parametrize("difference", [0.0, 1e-17, -1e-17])  # means are rounded sums
def test_equal_models_are_not_said_to_be_ahead(difference):
    (tile,) = tiles(
        {"mllm_msr": 0.7, "sasrec": 0.7}, [comparison("mllm_msr", "sasrec", difference, 1.0)]
    )
    assert tile.sentences == (
        "MLLM-MSR ranks 1st of 2 models (AUC 0.700).",
        "sasrec is equally good.",
    )


@pytest.mark.parametrize(
    ("ranked", "words"),
    [
        ({"popularity": 0.6}, "The only ranked model is popularity (AUC 0.600)."),
        ({"popularity": 0.6, "sasrec": 0.7}, "The best of 2 models is sasrec (AUC 0.700)."),
    ],
    ids=["one", "several"],
)
def test_a_main_model_that_is_not_ranked_is_named(ranked, words):
    metrics = {"mllm_msr": {"uniform": entry(0.8)}}
    metrics |= {model: {"full": entry(mean)} for model, mean in ranked.items()}
    tables = result_tables(metrics, chance=CHANCE, main="mllm_msr")
    full = build_tiles(tables, [], labels=LABELS)[-1]
    assert full.sentences == ("MLLM-MSR is not ranked.", words)
    assert full.row.model in ranked


def test_a_table_without_a_value_has_no_tile():
    tables = result_tables({"mllm_msr": {"uniform": {}}}, chance={}, main="mllm_msr")
    assert build_tiles(tables, [], labels=LABELS) == []
