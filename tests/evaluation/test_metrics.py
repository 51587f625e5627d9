"""Registry of metrics: names, order, labels, and a new metric from another package."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import polars as pl
import pytest

from mllm_msr import registry
from mllm_msr.errors import UnknownNameError
from mllm_msr.evaluation import metrics
from mllm_msr.evaluation.evaluator import evaluate_scores
from mllm_msr.evaluation.metrics import Metric
from mllm_msr.evaluation.report.report import write_report
from scored_candidates import evaluated_rows, scored


class WorstRank(Metric):
    """A metric of another package in which lower is better."""

    label = "Worst"
    description = "share of the candidates above the true next item"
    takes_k = False
    higher_is_better = False
    in_summary = True

    def compute(self, lists):
        return lists.sum_per_list(lists.n_before) / (lists.n_positives + lists.n_negatives)


@pytest.fixture
def external_metric(monkeypatch):
    """Register `WorstRank` as the metric "worst"."""
    point = EntryPoint("worst", f"{__name__}:WorstRank", "mllm_msr.metrics")
    find = registry.find
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] * group.endswith("metrics"))
    monkeypatch.setattr(
        registry, "find", lambda kind, name: WorstRank if name == "worst" else find(kind, name)
    )
    metrics._classes.cache_clear()
    yield
    metrics._classes.cache_clear()


def test_the_headline_metric_comes_first_and_the_rest_is_alphabetical():
    names = metrics.metric_names([5])
    assert names[0] == metrics.HEADLINE
    assert names[1:] == sorted(names[1:])


def test_cut_offs_keep_their_order():
    assert [n for n in metrics.metric_names([10, 1]) if n.startswith("hr")] == ["hr@10", "hr@1"]
    assert metrics.configured([7])["hr@7"].k == 7


def test_constants_name_existing_metrics():
    assert metrics.HEADLINE in metrics.summary_names()
    assert metrics.SECONDARY in metrics.summary_names()
    assert metrics.find(metrics.TIES).is_diagnostic


def test_new_metrics_appear_in_the_files_but_not_in_the_main_tables():
    assert {"precision@5", "map@5"} <= set(metrics.metric_names())
    assert not {"precision@5", "map@5"} & set(metrics.summary_names())


@pytest.mark.parametrize(
    ("name", "label"),
    [("auc", "AUC"), ("ndcg@10", "NDCG@10"), ("precision@3", "Precision@3"), ("mine@5", "mine@5")],
)
def test_labels(name, label):
    assert metrics.label(name) == label


def test_find_takes_any_cut_off():
    assert metrics.find("hr@17").k == 17
    assert metrics.find("auc").label == "AUC"


@pytest.mark.parametrize("name", ["hr", "hr@", "hr@0", "hr@05", "hr@-1", "auc@5", "ndgc@5"])
def test_unknown_names_are_rejected_with_a_suggestion(name):
    with pytest.raises(UnknownNameError, match=f"Unknown metric '{name}'.*Available: auc, "):
        metrics.find(name)


@pytest.mark.usefixtures("external_metric")
def test_a_metric_of_another_package_reaches_tables_comparisons_and_report(tmp_path):
    rows = evaluated_rows()
    models = {"good": scored(rows, signal=2.0), "noise": scored(rows, seed=1)}
    found = evaluate_scores(models, n_resamples=50)
    value = found.summary["good"]["uniform"]["worst"]["mean"]
    per_user = found.per_user.filter(
        (pl.col("model") == "good") & (pl.col("negatives") == "uniform")
    ).filter(pl.col("metric") == "worst")["value"]
    assert value == pytest.approx(per_user.mean())
    assert found.details["chance"]["uniform"]["worst"] == 0.0
    record = next(
        r
        for r in found.details["comparisons"]
        if (r["metric"], r["negatives"]) == ("worst", "uniform")
    )
    assert record["difference"] < 0
    assert record["better"] > record["worse"]
    files = write_report(
        tmp_path, metrics=found.summary, details=found.details, manifest={}, config={}
    )
    text = files.markdown.read_text(encoding="utf-8")
    header = next(line for line in text.splitlines() if line.startswith("| model | AUC"))
    assert "| Worst |" in header
    good = next(line for line in text.splitlines() if line.startswith("| good |"))
    assert f"| {value:.3f} (" in good  # not bold: random order has the same value
    assert np.isfinite(value)
