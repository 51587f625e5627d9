"""Selection of the figures: which metrics, models and kinds of negatives are drawn."""

from __future__ import annotations

import re

from mllm_msr.evaluation.report.figures import build_figures


def cell(mean):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 50}


def entry(mean):
    return {name: cell(mean) for name in ("auc", "hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")}


METRICS = {
    "mllm_msr": {"uniform": entry(0.8)},
    "popularity": {"uniform": entry(0.5), "full": entry(0.1)},
}
CHANCE = {"uniform": {"auc": 0.5, "hr@1": 1 / 21, "hr@5": 5 / 21, "hr@10": 10 / 21}}
LABELS = {"mllm_msr": "MLLM-MSR"}


def figures(**details):
    return build_figures(METRICS, {"chance": CHANCE} | details, main="mllm_msr", labels=LABELS)


def test_one_kind_of_negatives_has_no_figure_beside_its_table():
    assert [figure.title for figure in figures()] == ["HR@k by cut-off"]


def test_several_kinds_of_negatives_are_compared():
    both = {
        name: {"uniform": entry(mean), "popularity": entry(mean - 0.1), "full": entry(0.1)}
        for name, mean in (("mllm_msr", 0.8), ("popularity", 0.5))
    }
    found = build_figures(both, {"chance": CHANCE}, main="mllm_msr", labels=LABELS)
    assert [figure.title for figure in found] == ["AUC by kind of negatives", "HR@k by cut-off"]
    assert "MLLM-MSR, popularity: AUC 0.700" in found[0].svg
    assert "full" not in found[0].svg
    alone = build_figures({"mllm_msr": both["mllm_msr"]}, {}, main="mllm_msr", labels=LABELS)
    assert alone == []


def test_models_are_shown_by_label_or_name():
    first = figures()[0]
    assert "MLLM-MSR" in first.svg
    assert "popularity" in first.svg


def test_score_histograms_and_reliability_need_probabilities():
    shares = {"positives": [0.0, 1.0], "negatives": [1.0, 0.0]}
    bins = [{"predicted": 0.1, "observed": 0.2, "weight": 1.0}]
    found = figures(
        histograms={"mllm_msr": {"uniform": shares}},
        calibration={"mllm_msr": {"uniform": {"ece": 0.1, "bins": bins}}},
    )
    assert [figure.title for figure in found[-2:]] == ["Scores", "Reliability"]
    assert "Expected calibration error: 0.100" in found[-1].note


def test_without_matplotlib_there_are_no_figures_but_a_warning(monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert figures() == []
    assert re.search(r"no figures, because .* mllm-msr\[report\]. Run: pip install", caplog.text)


def test_without_results_there_are_no_figures():
    assert build_figures({}, {}, main="", labels={}) == []
