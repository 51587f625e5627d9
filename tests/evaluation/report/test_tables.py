"""The report's records: best marked, popularity and random always there, honest verdicts."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.evaluation.report import tables as views
from mllm_msr.tables import PREFERENCES, SUMMARIES


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
def tables():
    return views.result_tables(METRICS, chance=CHANCE, main="mllm_msr")


def test_best_model_stands_first_and_is_marked(tables):
    uniform = tables[0]
    assert [row.model for row in uniform.rows] == ["mllm_msr", "my_model", "popularity", "random"]
    assert [row.role for row in uniform.rows] == ["ours", "baseline", "floor", "chance"]
    assert [row.cells[0].best for row in uniform.rows] == [True, False, False, False]
    assert uniform.metrics == ("auc", "hr@5")
    assert uniform.rows[1].label == "my_model"


def test_full_rankings_are_cut_at_ten_and_seeds_are_named():
    values = {name: entry(0.6)["auc"] for name in ("auc", "hr@5", "hr@10", "ndcg@10")}
    metrics = {"sasrec": {"full": values, "uniform": values}}
    sampled, full = views.result_tables(metrics, chance={}, main="mllm_msr", n_seeds={"sasrec": 3})
    assert sampled.metrics == ("auc", "hr@5")
    assert full.metrics == ("auc", "hr@10", "ndcg@10")
    assert full.rows[0].remark == "mean of 3 seeds"


def test_every_cut_off_has_pooled_auc_beside():
    pooled = {"mllm_msr": {"uniform": 0.77}}
    uniform, _ = views.every_cut_off(METRICS, chance=CHANCE, main="mllm_msr", pooled=pooled)
    assert uniform.metrics == ("auc", "auc pooled", "hr@5")
    assert [row.cells[1].mean for row in uniform.rows] == [0.77, None, None, 0.5]
    assert uniform.rows[0].cells[1].low is None


def test_popularity_that_was_not_run_still_has_its_row(tables):
    by_popularity = tables[1]
    assert [row.model for row in by_popularity.rows] == ["mllm_msr", "popularity", "random"]
    assert by_popularity.rows[1].cells[0].mean is None
    assert by_popularity.rows[1].remark == "not evaluated"


def test_verdicts_are_seen_from_the_main_model():
    record = {
        "negatives": "uniform", "metric": "auc", "first": "popularity", "second": "mllm_msr",
        "difference": -0.2, "low": -0.3, "high": -0.1, "better": 0.2, "worse": 0.7, "n": 50,
        "p": 0.001, "p_holm": 0.06,
    }  # fmt: skip
    others = [record | {"metric": "hr@5"}, record | {"second": "my_model"}]
    (found,) = views.verdicts([record, *others], main="mllm_msr")
    assert (found.difference, found.low, found.high) == (0.2, 0.1, 0.3)
    assert (found.better, found.worse) == (0.7, 0.2)
    assert found.other == "Popularity"
    assert not found.significant


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
    assert views.main_model(uniform) == main


def test_the_main_model_is_chosen_by_the_first_kind_of_negatives():
    first = {"popularity": {"auc": {"mean": 0.9}}, "uniform": {"auc": {"mean": 0.6}}}
    second = {"full": {"auc": {"mean": 0.5}}, "uniform": {"auc": {"mean": 0.7}}}
    assert views.main_model({"sasrec": first, "gru4rec": second}) == "gru4rec"
    assert views.main_model({"sasrec": {}, "gru4rec": second}) == "gru4rec"


def test_costs_tell_calls_from_cached_responses():
    counts = {"hits": 30, "misses": 10, "prompt_tokens": 500, "items": 7}
    asked, plain = views.costs({"summarize": {"seconds": 2.5, "counts": counts}, "prepare": {}})
    assert (asked.calls, asked.cached, asked.prompt_tokens) == (10, 0.75, 500)
    assert asked.output_tokens is None
    assert asked.others == (("items", 7),)
    assert (plain.calls, plain.cached, plain.seconds) == (None, None, 0.0)


def test_health_counts_images_and_remarks():
    summaries = pl.DataFrame(
        [
            ("a", "t", "i", "s", "ok", ""),
            ("b", "t", None, "s", "missing", "image_cut,fusion_cut"),
            ("c", "t", None, "s", "ok", "image_cut"),
        ],
        schema=dict(SUMMARIES),
        orient="row",
    )
    preferences = pl.DataFrame(
        [("u", 0, 3, "p", True, None)], schema=dict(PREFERENCES), orient="row"
    )
    rows = views.health(summaries, preferences)
    assert ("images", "ok", 2, pytest.approx(2 / 3)) in rows
    assert ("images", "missing", 1, pytest.approx(1 / 3)) in rows
    assert ("summaries", "no remark", 1, pytest.approx(1 / 3)) in rows
    assert ("summaries", "image_cut", 2, pytest.approx(2 / 3)) in rows
    assert ("preferences", "no remark", 1, 1.0) in rows
    assert views.health(None, None) == []


def caveats(tables, config=None, undefined=None):
    return "\n".join(views.caveats(config or {}, tables=tables, undefined=undefined or {}))


def test_caveats_follow_what_the_run_was(tables):
    text = caveats(
        tables,
        {"dataset": "demo", "data": {"protocol": "released-code", "folds": 5, "run_folds": 1}},
    )
    assert "UNSOUND PROTOCOL" in text
    assert "The data are generated" in text
    assert "1 of 5 folds were run" in text
    plain = caveats(
        tables, {"data": {"protocol": "leave-last-out", "folds": 5, "run_folds": [0, 1, 2, 3, 4]}}
    )
    assert "UNSOUND" not in plain
    assert "folds were run" not in plain


def test_caveats_tell_of_ties_lost_users_and_missing_popularity(tables):
    text = caveats(tables, undefined={"mllm_msr": 3, "my_model": 0})
    assert "my_model, uniform negatives: the true item ties with a negative for 30%" in text
    assert "MLLM-MSR: 3 lists had no positive" in text
    assert "Popularity was not evaluated" not in text
    only_ours = views.result_tables(
        {"mllm_msr": {"uniform": entry(0.8, n=90)}}, chance=CHANCE, main="mllm_msr"
    )
    text = caveats(only_ours)
    assert "Popularity was not evaluated" in text
    assert "Only 90 users" in text


def test_kinds_keep_the_report_s_order():
    assert views.ordered_kinds(["zz", "full", "popularity"]) == ["popularity", "full", "zz"]


def test_the_packaged_model_out_of_its_depth_is_told_by_the_words_it_carries_over(tables):
    embedded = {"model": {"backend": "demo"}}
    known = {"tables": tables, "undefined": {}}
    (first, *_) = views.caveats(embedded, carried=0.26, **known)
    assert "OUT OF ITS DEPTH. Only 26%" in first
    for config, carried in ((embedded, 0.97), (embedded, None), ({}, 0.26)):
        assert "DEPTH" not in "".join(views.caveats(config, carried=carried, **known))
