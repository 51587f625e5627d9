"""Comparison of all models: signs, outcomes, order, and parts without data."""

from __future__ import annotations

import pytest

from mllm_msr.evaluation.report.comparison import (
    CalibrationRow,
    calibration_rows,
    exposure_rows,
    matrices,
    ordered_models,
    slice_panels,
)


def cell(mean, n=50):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": n}


METRICS = {
    "popularity": {"uniform": {"auc": cell(0.5)}},
    "mllm_msr": {"uniform": {"auc": cell(0.8)}, "full": {"auc": cell(0.6)}},
    "sasrec": {"uniform": {"auc": cell(0.7)}},
}


def record(first, second, difference, p_holm):
    return {
        "negatives": "uniform", "metric": "auc", "first": first, "second": second,
        "difference": difference, "p_holm": p_holm, "n": 50,
    }  # fmt: skip


def test_a_matrix_compares_the_row_with_the_column():
    records = [
        record("popularity", "mllm_msr", -0.3, 0.01),
        record("sasrec", "popularity", 0.2, 0.05),
    ]
    (matrix,) = matrices(METRICS, records)
    assert matrix.models == ("mllm_msr", "sasrec", "popularity")
    main, sasrec, popularity = matrix.rows
    assert [pair and pair.outcome for pair in main] == [None, None, "better"]
    assert [pair and pair.outcome for pair in popularity] == ["worse", "not significant", None]
    assert popularity[0].difference == -0.3
    assert (sasrec[2].difference, sasrec[2].outcome) == (0.2, "not significant")


def test_a_single_model_has_no_matrix():
    assert matrices({"sasrec": METRICS["sasrec"]}, []) == []


def test_models_are_ordered_by_their_mean():
    assert ordered_models(METRICS, "uniform") == ["mllm_msr", "sasrec", "popularity"]
    assert ordered_models(METRICS, "full") == ["mllm_msr"]
    assert ordered_models(METRICS, "other") == []


def test_slice_panels_keep_the_order_of_slices_and_mark_the_best():
    slices = {
        "target": {
            "popular (top tenth)": {"popularity": {"uniform": {"auc": cell(0.9, n=7)}}},
            "cold (at most 5)": {
                "mllm_msr": {"uniform": {"auc": cell(0.6, n=3)}},
                "popularity": {"uniform": {"auc": cell(0.1, n=3)}},
            },
        }
    }
    (panel,) = slice_panels(METRICS, slices, main="mllm_msr")
    assert panel.columns == (("cold (at most 5)", 3), ("popular (top tenth)", 7))
    assert [row.model for row in panel.rows] == ["mllm_msr", "sasrec", "popularity"]
    assert [row.role for row in panel.rows] == ["main", "baseline", "popularity"]
    assert [[c.mean for c in row.cells] for row in panel.rows] == [
        [0.6, None],
        [None, None],
        [0.1, 0.9],
    ]
    assert [[c.best for c in row.cells] for row in panel.rows] == [
        [True, False],
        [False, False],
        [False, True],
    ]


def test_exposure_shows_the_highest_coverage_first():
    def entry(coverage):
        names = ("novelty@10", "popularity@10", "bias@10")
        return {"coverage@10": {"mean": coverage}} | {name: cell(0.5) for name in names}

    rows = exposure_rows({"popularity": entry(0.01), "sasrec": entry(0.4)}, main="mllm_msr")
    assert [row.model for row in rows] == ["sasrec", "popularity"]
    assert (rows[0].cells[0].mean, rows[0].cells[0].low, rows[0].n) == (0.4, None, 50)
    assert exposure_rows({"sasrec": entry(0.4)}, main="", k=7) == []


def test_exposure_states_for_how_many_users_the_bias_is_defined():
    cell = {"mean": 0.1, "low": 0.0, "high": 0.2}
    names = ("novelty@10", "popularity@10", "bias@10")
    found = {"coverage@10": {"mean": 0.4}, **{name: {**cell, "n": 30} for name in names}}
    assert [row.n_with_history for row in exposure_rows({"m": found}, main="")] == [30]
    del found["bias@10"]
    (row,) = exposure_rows({"m": found}, main="")
    assert (row.n, row.n_with_history, row.cells[3].mean) == (30, 0, None)


def test_calibration_begins_with_the_best_model():
    parts = {name: {"ece": ece, "bins": [{"n": 1}]} for name, ece in (("a", 0.3), ("b", 0.1))}
    found = calibration_rows(
        {name: {"popularity": part, "uniform": part} for name, part in parts.items()}, main="a"
    )
    assert [(row.model, row.kind) for row in found] == [
        ("b", "uniform"), ("b", "popularity"), ("a", "uniform"), ("a", "popularity"),
    ]  # fmt: skip


def test_calibration_without_both_classes_is_left_out():
    found = calibration_rows(
        {
            "mllm_msr": {
                "uniform": {"ece": 0.04, "bins": [{"n": 30}, {"n": 12}]},
                "popularity": {"ece": None, "bins": []},
            }
        },
        main="mllm_msr",
    )
    assert found == [CalibrationRow("mllm_msr", "main", "uniform", pytest.approx(0.04), 42)]
