"""Results and report of a run, as Python code and notebooks show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, final

import polars as pl

from mllm_msr.evaluation.report import notebook
from mllm_msr.evaluation.report.tables import ResultTable, main_model, result_tables
from mllm_msr.pipeline.recommenders import label_of
from mllm_msr.storage.layout import REPORT_MARKDOWN
from mllm_msr.tables import to_pandas

_COLUMNS: Final = {
    "model": pl.String,
    "label": pl.String,
    "negatives": pl.String,
    "metric": pl.String,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
}


@final
class RunResult(dict[str, Any]):
    """Results of a run: a dictionary that is also a frame, and a table in notebooks.

    Keys: `run` and `report` (paths), `metrics`
    (`{model: {negatives: {metric: {mean, low, high, n}}}}`), `notes` by model, and after `compare`
    also `comparisons`.
    """

    def to_polars(self) -> pl.DataFrame:
        """Return one row per model, kind of negatives and metric.

        Returns:
            Columns model, label, negatives, metric, mean, low and high (the 95% interval), and n
            (the number of users).
        """
        rows = [
            {"model": model, "label": label_of(model), "negatives": kind, "metric": name, **value}
            for model, kinds in self["metrics"].items()
            for kind, values in kinds.items()
            for name, value in values.items()
        ]
        return pl.DataFrame(rows, schema=_COLUMNS)

    def to_pandas(self) -> Any:
        """Return `to_polars` as a pandas frame.

        Raises:
            UsageError: pandas is not installed.
        """
        return to_pandas(self.to_polars())

    def tables(self) -> list[ResultTable]:
        """Return the table of each kind of negatives, the best model first."""
        metrics = self["metrics"]
        return result_tables(metrics, chance={}, main=main_model(metrics))

    def __repr__(self) -> str:
        models = ", ".join(self["metrics"])
        return f"RunResult(run={self['run']!r}, report={self['report']!r}, models: {models})"

    def _repr_html_(self) -> str:
        """Return the tables for a notebook."""
        labels = {model: label_of(model) for model in self["metrics"]}
        return notebook.render("results", labels=labels, tables=self.tables(), **self)


@final
class RunReport:
    """Report of a run. A notebook shows it as a page.

    Args:
        path: The report, `report.html`.

    Attributes:
        path: As given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def markdown(self) -> str:
        """Return the report as Markdown."""
        return self.path.with_name(REPORT_MARKDOWN).read_text(encoding="utf-8")

    def __repr__(self) -> str:
        return f"RunReport({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """Return the report in a frame for a notebook."""
        return notebook.frame(self.path.read_text(encoding="utf-8"))
