"""Advice of the report: only if a baseline is ahead, and only what the run does not do yet."""

from __future__ import annotations

import pytest

from mllm_msr import registry
from mllm_msr.errors import MissingExtraError
from mllm_msr.evaluation.report.next_steps import next_steps
from mllm_msr.evaluation.report.tables import result_tables, verdicts

LABELS = {"mllm_msr": "MLLM-MSR", "item_knn": "Item-kNN"}
CONFIG = {
    "model": {"backend": "smollm"},
    "recommend": {"collaborative": "none"},
    "train": {"max_targets": 200},
}


def entry(mean):
    return {"auc": {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "n": 16}}


def advice(uniform, popularity, *, p=None, config=CONFIG, n_users=80):
    """Return the advice for means by model, and a difference from item-kNN with a p-value."""
    kinds = {"uniform": uniform, "popularity": popularity}
    metrics = {
        model: {kind: entry(means[model]) for kind, means in kinds.items()} for model in uniform
    }
    chance = {kind: {"auc": 0.5} for kind in kinds}
    comparisons = [
        {
            "negatives": "uniform", "metric": "auc", "first": "mllm_msr", "second": "item_knn",
            "difference": -0.3, "low": -0.5, "high": -0.1, "better": 0.2, "worse": 0.8, "n": 16,
            "p": p, "p_holm": p, "p_main": p,
        }
    ] if p is not None else []  # fmt: skip
    main = "mllm_msr"
    return next_steps(
        result_tables(metrics, chance=chance, main=main),
        verdicts(comparisons, main=main),
        config=config,
        manifest={"prepare": {"counts": {"users": n_users}}},
        labels=LABELS,
    )


WEAK = {"mllm_msr": 0.52, "zero_shot": 0.9, "item_knn": 0.83, "popularity": 0.55}
STRONG = {"mllm_msr": 0.8, "zero_shot": 0.4, "item_knn": 0.7, "popularity": 0.55}


def test_a_model_at_random_order_is_not_recommended():
    finding, *steps = advice(WEAK, WEAK, p=0.01)
    assert finding.startswith(
        "MLLM-MSR is not significantly better than random order here. Item-kNN is significantly "
        "better and needs no language model."
    )
    assert "--budget 0" in finding
    assert [step.split(":")[-1].strip() for step in steps] == [
        "recommend.collaborative=gru4rec_f, or sasrec for data with many interactions.",
        "this one has train.max_targets=200.",
        "this run has 80 users.",
    ]


def test_a_difference_that_is_not_significant_is_called_so():
    finding, *_ = advice(WEAK, WEAK, p=0.3)
    assert "Item-kNN has a higher mean, without a significant difference, and needs" in finding


def test_a_better_model_needs_no_advice():
    assert advice(STRONG, STRONG) == []
    # Ahead for one kind of negatives.
    assert advice(WEAK, STRONG) == []
    # Zero-shot is no alternative, and a run without other models has none.
    alone = {model: STRONG[model] for model in ("mllm_msr", "zero_shot")}
    assert advice(alone, alone) == []


@pytest.mark.parametrize("other", ["tallrec", "hybrid", "student", "external"])
def test_models_that_may_need_a_language_model_are_no_advice(other):
    ahead = STRONG | {other: 0.9}
    assert advice(ahead, ahead) == []
    ahead = WEAK | {other: 0.9}
    assert "Item-kNN has a higher mean" in advice(ahead, ahead)[0]


def test_baselines_that_are_not_installed_are_no_advice(monkeypatch):
    def fail(group, name):
        raise MissingExtraError("scipy", "baselines")

    monkeypatch.setattr(registry, "find", fail)
    assert advice(WEAK, WEAK) == []


def test_a_model_above_random_order_is_told_apart():
    behind = WEAK | {"mllm_msr": 0.7}
    finding, *_ = advice(behind, behind, p=0.3)
    assert "better than random order, but not the best model" in finding


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"recommend": {"collaborative": "sasrec"}}, "recommend.collaborative"),
        ({"model": {"backend": "openai"}}, "recommend.collaborative"),
        ({"train": {"max_targets": None}}, "max_targets"),
    ],
)
def test_only_what_the_run_does_not_do_yet_is_advised(change, missing):
    assert missing in " ".join(advice(WEAK, WEAK))
    assert missing not in " ".join(advice(WEAK, WEAK, config=CONFIG | change))


def test_many_users_are_enough():
    assert not any("more data" in step for step in advice(WEAK, WEAK, n_users=5000))
