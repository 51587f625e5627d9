"""Output of the commands: JSON, text, and the table of metrics."""

from __future__ import annotations

import json

import pytest

from mllm_msr.cli._output import emit, metrics_table
from mllm_msr.evaluation.metrics import summary_names

CELL = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 40}


def test_values_are_printed_as_json_text_or_lines(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": 1, "b": "x"}, as_json=True, plain="text")
    assert json.loads(capsys.readouterr().out) == {"a": 1, "b": "x"}
    emit({"a": 1}, as_json=False, plain="text")
    assert capsys.readouterr().out == "text\n"
    emit({"a": 1, "b": "x"}, as_json=False)
    assert capsys.readouterr().out == "a: 1\nb: x\n"


def test_the_table_has_one_line_per_model_and_kind_of_negatives() -> None:
    names = summary_names()
    computed = dict.fromkeys(names[:-1], CELL)  # a run from before the last metric was added
    metrics = {"sasrec": {"uniform": computed, "popularity": {}}}
    lines = metrics_table({"metrics": metrics, "report": "run/report.html"}).splitlines()
    assert lines[0].split() == ["model", "negatives", "users", *names]
    intervals = ["0.500", "[0.250,", "0.750]"] * len(computed)
    assert lines[1].split() == ["sasrec", "uniform", "40", *intervals, "-"]
    assert lines[2].split() == ["sasrec", "popularity", "0", *("-" for _ in names)]
    assert lines[-1] == "report: run/report.html"
    assert "report" not in metrics_table({"metrics": metrics, "report": None})
    noted = metrics_table({"metrics": metrics, "report": None, "notes": {"sasrec": "was cut"}})
    assert noted.splitlines()[-1] == "note: sasrec: was cut"


def test_the_main_model_is_compared_with_each_other_one() -> None:
    record = {
        "negatives": "uniform", "metric": "auc", "first": "popularity", "second": "mllm_msr",
        "difference": -0.2, "low": -0.3, "high": -0.1, "n": 50, "p_holm": 0.06, "p_main": 0.04,
    }  # fmt: skip
    other = record | {"second": "sasrec", "p_main": None}
    shown = metrics_table({"metrics": {}, "comparisons": [record, other]})
    lines = [line.split() for line in shown.splitlines()]
    row = ["popularity", "uniform", "50", "+0.200", "[+0.100,", "+0.300]", "0.0400", "0.0600"]
    assert row in lines
    assert not any(line[:1] == ["sasrec"] for line in lines)
    assert "all pairs" not in metrics_table({"metrics": {}, "comparisons": [other]})
