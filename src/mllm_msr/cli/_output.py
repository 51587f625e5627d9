"""Output of the commands: one JSON object with `--json`, else readable text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from mllm_msr.pipeline.pipeline import Pipeline


def emit(values: Mapping[str, Any], *, as_json: bool, plain: str | None = None) -> None:
    """Print values as JSON, as the text `plain`, or, without either, as lines `key: value`."""
    if as_json:
        typer.echo(json.dumps(values, indent=2, default=str))
    elif plain is not None:
        typer.echo(plain)
    else:
        for key, value in values.items():
            typer.echo(f"{key}: {value}")


def data_text(pipeline: Pipeline) -> str:
    """Return what the stage `prepare` understood of the dataset, as text."""
    from mllm_msr.data.source_text import format_report

    report = pipeline.tables.data_report()
    return "This run has no report about its data." if report is None else format_report(report)


def metrics_table(result: Mapping[str, Any]) -> str:
    """Format the main metrics of a run as a text table, followed by the path of its report.

    Args:
        result: Return value of `Pipeline.result`.

    Returns:
        Table with one line per model and kind of negatives: number of users, then mean and
        confidence interval of each metric, "-" if the metric was not computed; then, if there are
        any, the comparisons of the main model with the others, and the notes.
    """
    from mllm_msr.evaluation.metrics import summary_names

    names = summary_names()
    header = "".join(f"{name:>24}" for name in names)
    lines = [f"{'model':<17}{'negatives':<12}{'users':>6}{header}"]
    for model, by_negatives in result["metrics"].items():
        for negatives, values in by_negatives.items():
            n_users = max((values[name]["n"] for name in names if name in values), default=0)
            cells = ""
            for name in names:
                value = values.get(name)
                interval = (
                    value and f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
                )
                cells += f"{interval or '-':>24}"
            lines.append(f"{model:<17}{negatives:<12}{n_users:>6}{cells}")
    lines.append("")
    lines += _comparison_lines(result.get("comparisons", ()))
    lines += [f"note: {model}: {note}" for model, note in result.get("notes", {}).items()]
    if result.get("report"):
        lines.append(f"report: {result['report']}")
    return "\n".join(lines)


def _comparison_lines(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the comparisons of the main model; without a main model, return no lines."""
    from mllm_msr.evaluation.comparisons import MAIN

    own = [record for record in comparisons if record["p_main"] is not None]
    if not own:
        return []
    heading = f"{MAIN} against, {own[0]['metric']}"
    header = f"{heading:<29}{'users':>6}{'difference':>25}{'p':>10}{'p, all pairs':>14}"
    lines = [header]
    for record in own:
        sign = 1 if record["first"] == MAIN else -1
        other = record["second" if sign == 1 else "first"]
        low, high = sorted((sign * record["low"], sign * record["high"]))
        difference = f"{sign * record['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        tests = f"{record['p_main']:>10.4f}{record['p_holm']:>14.4f}"
        lines.append(f"{other:<17}{record['negatives']:<12}{record['n']:>6}{difference:>25}{tests}")
    return [*lines, "p: corrected for the comparisons of this table under the same negatives.", ""]
