"""Caveats: only those that apply to the run."""

from __future__ import annotations

import pytest

from mllm_msr.evaluation.report.caveats import caveats
from mllm_msr.evaluation.report.tables import result_tables


def entry(value, *, ties=0.0, n=300):
    def cell(mean):
        return {"mean": mean, "low": mean - 0.02, "high": mean + 0.02, "n": n}

    return {"auc": cell(value), "ties": cell(ties)}


def tables_of(metrics):
    return result_tables(metrics, chance={"uniform": {"auc": 0.5}}, main="mllm_msr")


TABLES = tables_of(
    {
        "popularity": {"uniform": entry(0.6, ties=0.5)},
        "mllm_msr": {"uniform": entry(0.8)},
        "my_model": {"uniform": entry(0.7, ties=0.3)},
    }
)


def text_of(config=None, *, tables=TABLES, source_coverage=None, **details):
    labels = {"mllm_msr": "MLLM-MSR"}
    stages = {"summarize": {"counts": {"source_coverage": source_coverage}}}
    found = caveats(config or {}, tables=tables, details=details, manifest=stages, labels=labels)
    return "\n".join(found)


def test_the_protocol_the_data_and_the_folds_are_named():
    data = {"protocol": "released-code", "folds": 5, "run_folds": 1}
    text = text_of({"dataset": "demo", "data": data})
    assert "BIASED PROTOCOL" in text
    assert "The data are synthetic" in text
    assert "Only 1 of 5 folds was run" in text


def test_a_complete_run_has_no_such_caveats():
    data = {"protocol": "leave-last-out", "folds": 5, "run_folds": [0, 1, 2, 3, 4]}
    text = text_of({"data": data})
    assert "PROTOCOL" not in text
    assert "folds w" not in text


def test_candidates_without_a_score_are_counted():
    text = text_of(unscored={"mllm_msr": 4, "my_model": 0})
    assert "MLLM-MSR could not score 4 candidates, which rank last." in text
    assert "my_model could not" not in text


def test_few_users_are_a_caveat_of_the_run_or_of_one_table():
    few = {"uniform": entry(0.8, n=8)}
    assert "This run has only 8 test users" in text_of(tables=tables_of({"mllm_msr": few}))
    mixed = few | {"full": entry(0.8, n=4)}
    assert "One of the tables has only 4 test" in text_of(tables=tables_of({"mllm_msr": mixed}))
    assert "test users" not in text_of()


def test_ties_and_lists_without_a_value_are_named():
    text = text_of(undefined={"mllm_msr": 3, "my_model": 0})
    assert (
        "Uniform negatives: the true item has the same score as another candidate for my_model "
        "(30% of the users)."
    ) in text
    assert "popularity (" not in text
    assert "MLLM-MSR: 3 lists without a positive" in text
    assert "my_model: 0" not in text
    assert "Popularity was not evaluated" not in text


def test_a_missing_baseline_and_few_users_are_named():
    text = text_of(tables=tables_of({"mllm_msr": {"uniform": entry(0.8, n=90)}}))
    assert "Popularity was not evaluated" in text
    assert "only 90 test users" in text


def test_low_source_coverage_of_the_demo_model_comes_first():
    demo = {"model": {"backend": "demo"}}
    text = text_of(demo, source_coverage=0.26)
    assert text.startswith("The demo model was not trained on data of this kind. Only 26%")


@pytest.mark.parametrize(("backend", "coverage"), [("demo", 0.97), ("demo", None), ("mock", 0.26)])
def test_other_models_and_high_coverage_have_no_such_caveat(backend, coverage):
    text = text_of({"model": {"backend": backend}}, source_coverage=coverage)
    assert "demo model" not in text


def test_the_projector_is_a_caveat_only_if_images_are_read():
    used = {"model": {"backend": "smollm"}}
    assert "trained on drawn scenes" in text_of(used)
    text_only = {"summarize": {"enabled": False}, "recommend": {"use_images": False}}
    assert "drawn scenes" not in text_of(used | text_only)
    assert "drawn scenes" in text_of(used | text_only | {"summarize": {"enabled": True}})
    assert "drawn scenes" not in text_of(used | {"align": {"enabled": True}})
