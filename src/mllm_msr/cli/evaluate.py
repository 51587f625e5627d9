"""`evaluate`: compute the metrics of a run or of external scores for external candidates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._open_run import open_pipeline
from mllm_msr.cli._options import (
    ConfigOption,
    ForceOption,
    JsonOption,
    Overrides,
    PresetOption,
    RunOption,
    parse_path,
    settings_help,
)
from mllm_msr.cli._output import emit, unbroken
from mllm_msr.cli._results import emit_results, result_tables
from mllm_msr.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType


@register(
    "evaluate", "Compute the metrics of a run or of score files", cls=settings_help("evaluate")
)
def command(
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    candidates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Candidates of an external experiment.", parser=parse_path
        ),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Scores of these candidates; repeatable.", parser=parse_path
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to write all their metrics to, as JSON.",
            parser=parse_path,
        ),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate the scores of a run, or external tables of scores."""
    if candidates is None and not scores:
        with open_pipeline(run, preset, config, settings, force=force) as pipeline:
            pipeline.run_stage("evaluate")
            emit_results(pipeline, as_json=as_json)
        return
    if candidates is None or not scores:
        given = "--scores" if candidates is None else "--candidates"
        raise UsageError(
            f"--candidates and --scores must be given together, but only {given} is given. "
            "Give both, or neither to evaluate a run folder."
        )
    from mllm_msr.config.loading import load_settings
    from mllm_msr.pipeline.pipeline import evaluate_files

    checked = load_settings(preset or "default", settings or (), file=config)
    metrics = evaluate_files(candidates, scores, checked)
    if out is not None:
        out.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    emit(metrics, as_json=as_json, plain=_format_external(metrics, out))


def _format_external(metrics: Mapping[str, Any], out: Path | None) -> RenderableType:
    """Return the tables of external scores, and the path of the file with all metrics."""
    from rich.console import Group

    where = f"All metrics: {out or 'add --json, or --out FILE'}"
    return Group(*result_tables(metrics, {}), unbroken([where]))
