"""Result tables and verdicts: order, best values, and rows that are always present."""

from __future__ import annotations

import pytest

from mllm_msr.evaluation.report import tables


def entry(value, *, ties=0.0, n=300):
    def cell(mean):
        return {"mean": mean, "low": mean - 0.02, "high": mean + 0.02, "n": n}

    return {"auc": cell(value), "hr@5": cell(value / 2), "ties": cell(ties)}


METRICS = {
    "popularity": {"uniform": entry(0.6, ties=0.5)},
    "mllm_msr": {"uniform": entry(0.8), "popularity": entry(0.7)},
    "my_model": {"uniform": entry(0.7, ties=0.3)},
}
CHANCE = {"uniform": {"auc": 0.5, "hr@5": 5 / 21}, "popularity": {"auc": 0.5, "hr@5": 5 / 21}}


@pytest.fixture
def result_tables():
    return tables.result_tables(METRICS, chance=CHANCE, main="mllm_msr")


def test_the_best_model_is_first_and_marked(result_tables):
    uniform = result_tables[0]
    assert [row.model for row in uniform.rows] == ["mllm_msr", "my_model", "popularity", "random"]
    assert [row.role for row in uniform.rows] == ["main", "baseline", "popularity", "random"]
    assert [row.cells[0].best for row in uniform.rows] == [True, False, False, False]
    assert uniform.metrics == ("auc", "hr@5")


def test_full_rankings_use_cut_off_10_and_seeds_are_noted():
    values = {name: entry(0.6)["auc"] for name in ("auc", "hr@5", "hr@10", "ndcg@10")}
    metrics = {"sasrec": {"full": values, "uniform": values}}
    sampled, full = tables.result_tables(metrics, chance={}, main="mllm_msr", n_seeds={"sasrec": 3})
    assert sampled.metrics == ("auc", "hr@5")
    assert full.metrics == ("auc", "hr@10", "ndcg@10")
    assert full.rows[0].remark == "mean of 3 seeds"


def test_remarks_come_from_the_caller():
    remarks = {"mllm_msr": "fine-tuned", "popularity": "counts"}
    seeds = {"mllm_msr": 2}
    uniform, _ = tables.result_tables(
        METRICS, chance=CHANCE, main="mllm_msr", remarks=remarks, n_seeds=seeds
    )
    assert [row.remark for row in uniform.rows] == [
        "fine-tuned, mean of 2 seeds", "", "counts", "expected value",
    ]  # fmt: skip


def test_the_table_of_all_cut_offs_includes_the_pooled_auc():
    pooled = {"mllm_msr": {"uniform": 0.77}}
    uniform, _ = tables.all_cut_offs(METRICS, chance=CHANCE, main="mllm_msr", pooled=pooled)
    assert uniform.metrics == ("auc", "pooled_auc", "hr@5")
    assert [row.cells[1].mean for row in uniform.rows] == [0.77, None, None, 0.5]
    assert uniform.rows[0].cells[1].low is None


def test_popularity_has_a_row_even_if_it_was_not_evaluated(result_tables):
    by_popularity = result_tables[1]
    assert [row.model for row in by_popularity.rows] == ["mllm_msr", "popularity", "random"]
    assert by_popularity.rows[1].cells[0].mean is None
    assert by_popularity.rows[1].remark == "not evaluated"


def test_verdicts_state_the_outcome_for_the_main_model():
    record = {
        "negatives": "uniform", "metric": "auc", "first": "popularity", "second": "mllm_msr",
        "difference": -0.2, "low": -0.3, "high": -0.1, "better": 0.2, "worse": 0.7, "n": 50,
        "p": 0.001, "p_holm": 0.06, "p_main": 0.04,
    }  # fmt: skip
    others = [record | {"metric": "hr@5"}, record | {"second": "my_model"}]
    (found,) = tables.verdicts([record, *others], main="mllm_msr")
    assert (found.difference, found.low, found.high) == (0.2, 0.1, 0.3)
    assert (found.better, found.worse) == (0.7, 0.2)
    assert found.other == "popularity"
    assert (found.p, found.p_all, found.outcome) == (0.04, 0.06, "better")
    # The best of several models was chosen by its results, so all pairs count.
    (found,) = tables.verdicts([record | {"p_main": None}], main="mllm_msr")
    assert (found.p, found.outcome) == (0.06, "not significant")
    # Runs evaluated by older versions have only this p-value.
    del record["p_main"]
    assert tables.verdicts([record], main="mllm_msr")[0].p == 0.06


@pytest.mark.parametrize(
    ("models", "main"),
    [
        ({"popularity": 0.9, "mllm_msr": 0.7}, "mllm_msr"),
        ({"popularity": 0.9, "zero_shot": 0.8, "sasrec": 0.7}, "sasrec"),
        ({"item_knn": 0.7, "hybrid": 0.8, "sasrec": 0.75}, "hybrid"),
        ({"popularity": 0.5}, "popularity"),
        ({}, ""),
    ],
)
def test_main_model(models, main):
    uniform = {name: {"uniform": {"auc": {"mean": auc}}} for name, auc in models.items()}
    assert tables.main_model(uniform) == main


def test_the_main_model_is_selected_by_the_first_kind_of_negatives():
    first = {"popularity": {"auc": {"mean": 0.9}}, "uniform": {"auc": {"mean": 0.6}}}
    second = {"full": {"auc": {"mean": 0.5}}, "uniform": {"auc": {"mean": 0.7}}}
    assert tables.main_model({"sasrec": first, "gru4rec": second}) == "gru4rec"
    assert tables.main_model({"sasrec": {}, "gru4rec": second}) == "gru4rec"


def test_kinds_are_in_the_order_of_the_report():
    assert tables.ordered_kinds(["zz", "full", "popularity"]) == ["popularity", "full", "zz"]


@pytest.mark.parametrize(
    ("difference", "p", "expected"),
    [(0.1, 0.01, "better"), (-0.1, 0.01, "worse"), (0.1, 0.05, "not significant")],
)
def test_outcomes(difference, p, expected):
    assert tables.outcome(difference, p, metric="auc") == expected


def test_the_direction_of_a_metric_decides_what_is_better():
    assert tables.outcome(-0.1, 0.01, metric="ties") == "better"
    assert tables.best_value([0.1, 0.4], "ties") == 0.1
    assert sorted([0.4, 0.1], key=lambda value: tables.best_first(value, "ties")) == [0.1, 0.4]


def test_only_values_above_random_order_are_marked_as_the_best():
    chance = {"uniform": {"auc": 0.5, "hr@5": 0.45}}
    table = tables.result_tables(METRICS, chance=chance, main="mllm_msr")[0]
    assert [cell.best for cell in table.rows[0].cells] == [True, False]
    assert not any(cell.best for row in table.rows[1:] for cell in row.cells)


def test_models_without_a_full_ranking_have_a_row_and_the_setting_that_ranks_them():
    metrics = {
        "mllm_msr": {"uniform": entry(0.8)},
        "zero_shot": {"uniform": entry(0.7)},
        "mine": {"uniform": entry(0.6)},
        "popularity": {"uniform": entry(0.5), "full": entry(0.6)},
    }
    setting = {"mllm_msr": "score.full_users_mllm", "zero_shot": "score.full_users_mllm"}
    sampled, full = tables.result_tables(metrics, chance={}, main="mllm_msr", ranked_by=setting)
    assert sampled.not_ranked == {}
    assert [(row.model, row.remark) for row in full.rows] == [
        ("popularity", ""), ("mllm_msr", "not ranked"), ("zero_shot", "not ranked"),
        ("mine", "not ranked"),
    ]  # fmt: skip
    assert full.rows[1].role == "main"
    assert full.not_ranked == {"score.full_users_mllm": ("mllm_msr", "zero_shot")}


def test_the_axis_of_the_intervals_has_round_ends():
    table = tables.result_tables(METRICS, chance=CHANCE, main="mllm_msr")[0]
    assert table.scale == (0.5, 0.85)
    alone = {"mllm_msr": {"uniform": entry(0.8)}}
    assert tables.result_tables(alone, chance=CHANCE, main="mllm_msr")[0].scale is None
