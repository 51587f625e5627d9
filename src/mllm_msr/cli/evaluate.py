"""`evaluate`: compute the metrics of a run or of external scores for external candidates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli._app import app
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
from mllm_msr.cli._output import emit, metrics_table
from mllm_msr.errors import UsageError


@app.command("evaluate", cls=settings_help("evaluate"))
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
            help="File to write their metrics to; default: stdout.",
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
            result = pipeline.result()
        emit(result, as_json=as_json, plain=metrics_table(result))
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
    text = json.dumps(metrics, indent=2)
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
        emit({"metrics": str(out)}, as_json=as_json)
