"""Results and reports of runs: frames, and display in notebooks."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from mllm_msr.pipeline.run_result import RunReport, RunResult


def result(**more: object) -> RunResult:
    def values(mean: float) -> dict:
        return {"auc": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 20}}

    metrics = {"popularity": {"uniform": values(0.6)}, "item_knn": {"uniform": values(0.8)}}
    return RunResult(run="runs/<a>", report=None, metrics=metrics, notes={}, **more)


def test_a_result_is_a_dictionary_and_a_frame() -> None:
    assert result()["run"] == "runs/<a>"
    frame = result().to_polars()
    assert frame.rows() == [
        ("popularity", "Popularity", "uniform", "auc", 0.6, 0.5, 0.7, 20),
        ("item_knn", "Item-kNN", "uniform", "auc", 0.8, 0.8 - 0.1, 0.8 + 0.1, 20),
    ]
    assert result().to_pandas()["label"].tolist() == ["Popularity", "Item-kNN"]


def test_a_result_is_shown_as_a_table_with_the_best_model_first() -> None:
    page = result(comparisons=[])._repr_html_()
    assert page.index("Item-kNN") < page.index("Popularity</th>")
    assert '<td class="best">0.800</td>' in page
    assert "This run has no report yet." in page
    assert repr(result()) == "RunResult(run='runs/<a>', report=None, models: popularity, item_knn)"


def test_a_report_is_shown_in_a_frame(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text('<p title="a">Report & more</p>', encoding="utf-8")
    (tmp_path / "report.md").write_text("# Report", encoding="utf-8")
    report = RunReport(tmp_path / "report.html")
    frames: list[dict] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: frames.append({"tag": tag, **dict(attributes)})
    parser.feed(report._repr_html_())
    assert [frame["tag"] for frame in frames] == ["iframe"]
    assert frames[0]["srcdoc"] == '<p title="a">Report & more</p>'
    assert "allow-same-origin" not in frames[0]["sandbox"]
    assert report.markdown() == "# Report"
    assert repr(report) == f"RunReport({str(tmp_path / 'report.html')!r})"
