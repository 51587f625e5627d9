"""What commands print: one JSON object where it is asked for, else lines for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from mllm_msr.pipeline.pipeline import Pipeline


def show_result(pipeline: Pipeline, *, as_json: bool) -> None:
    """Print a run's table of metrics and where its report lies."""
    result = pipeline.result()
    emit(result, as_json=as_json, plain=result_lines(result))


def result_lines(result: dict[str, Any]) -> str:
    """A run's table of metrics and the path of its report, for people."""
    return "\n".join([*_metric_lines(result["metrics"]), "", *_paths(result)])


def _metric_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """A plain table of the main metrics, one line per model and kind of negatives."""
    columns = ("auc", "hr@5", "mrr@5", "ndcg@5")
    yield f"{'model':<17}{'negatives':<12}{'users':>6}" + "".join(f"{c:>24}" for c in columns)
    for model, by_negatives in metrics.items():
        for negatives, values in by_negatives.items():
            n = max((values[c]["n"] for c in columns if c in values), default=0)
            cells = "".join(f"{_interval(values.get(c)):>24}" for c in columns)
            yield f"{model:<17}{negatives:<12}{n:>6}{cells}"


def _interval(value: dict[str, float] | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _paths(result: dict[str, Any]) -> list[str]:
    return [f"report: {result['report']}"] if result.get("report") else []


def emit(values: dict[str, Any], *, as_json: bool, plain: str | None = None) -> None:
    """Print values as JSON, or as `plain`, or one `key: value` per line."""
    if as_json:
        typer.echo(json.dumps(values, indent=2, default=str))
    elif plain is not None:
        typer.echo(plain)
    else:
        for key, value in values.items():
            typer.echo(f"{key}: {value}")
