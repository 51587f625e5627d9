"""`run`, `demo` and one command per stage of the offline flow, each importing only what it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli.app import app
from mllm_msr.cli.open_run import open_pipeline
from mllm_msr.cli.options import (
    ConfigOption,
    ExecutorOption,
    ForceOption,
    JsonOption,
    Overrides,
    PresetOption,
    RunOption,
    StageCommand,
    with_executor,
)
from mllm_msr.cli.output import emit, show_result
from mllm_msr.cli.serve import PortOption, require_serving, serve_run
from mllm_msr.errors import UsageError


@app.command("run", cls=StageCommand)
def _run(
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    preset: PresetOption = None,
    config: ConfigOption = None,
    executor: ExecutorOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Do every stage, from raw data to the report; goes on where it was stopped."""
    asked = with_executor(settings, executor)
    with open_pipeline(run, preset, config, asked, force=force) as pipeline:
        pipeline.run_all()
        show_result(pipeline, as_json=as_json)


@app.command("demo", cls=StageCommand)
def _demo(
    settings: Overrides = None,
    run: RunOption = Path("runs/demo"),
    force: ForceOption = False,
    as_json: JsonOption = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Then serve its page on this machine.")
    ] = False,
    port: PortOption = 8000,
) -> None:
    """Show the whole method on a generated world with the packaged model."""
    if serve:
        require_serving()
    with open_pipeline(run, "demo", None, settings, force=force) as pipeline:
        pipeline.run_all()
        show_result(pipeline, as_json=as_json)
    if serve:
        # One like is enough to see the preference move.
        serve_run(run, host="127.0.0.1", port=port, overrides=["serve.update=event"])


def _add_stage(name: str, summary: str) -> None:
    """Register a command that does one stage and prints what it counted."""

    def command(
        settings: Overrides = None,
        run: RunOption = Path("runs/run"),
        preset: PresetOption = None,
        config: ConfigOption = None,
        executor: ExecutorOption = None,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        asked = with_executor(settings, executor)
        with open_pipeline(run, preset, config, asked, force=force) as pipeline:
            pipeline.run_stage(name)
            counts = pipeline.counts(name)
        emit(counts, as_json=as_json)

    app.command(name, cls=StageCommand, help=summary)(command)


_add_stage("prepare", "Read, filter and split the data, and draw the candidates.")
_add_stage("summarize", "Summarise every item from its text and its image.")
_add_stage("infer", "Infer every user's preference, block by block.")
_add_stage("train", "Fine-tune the recommender.")
_add_stage("score", "Score the test candidates with every model.")
_add_stage("report", "Write report.html and report.md of a run that has been judged.")


@app.command("evaluate", cls=StageCommand)
def _evaluate(
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    candidates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Candidates of a external experiment.")
    ] = None,
    scores: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Its scores; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where metrics.json goes; else stdout.")
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Judge a run's scores, or any table of scores over any table of candidates."""
    if candidates is None and not scores:
        with open_pipeline(run, preset, config, settings, force=force) as pipeline:
            pipeline.run_stage("evaluate")
            show_result(pipeline, as_json=as_json)
        return
    if candidates is None or not scores:
        raise UsageError(
            needed="both --candidates and --scores",
            received="one of them",
            remedy="give both, or neither to judge a run folder",
        )
    from mllm_msr.config.loading import load_settings
    from mllm_msr.pipeline.pipeline import judge_files

    checked = load_settings(preset or "default", settings or (), file=config)
    metrics = judge_files(candidates, scores, checked)
    text = json.dumps(metrics, indent=2)
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
        emit({"metrics": str(out)}, as_json=as_json)


@app.command("update")
def _update(
    interactions: Annotated[
        Path, typer.Argument(metavar="FILE", help="Parquet or CSV: user_id, item_id, timestamp.")
    ],
    run: RunOption = Path("runs/run"),
    as_json: JsonOption = False,
) -> None:
    """Add new interactions and bring the preferences up to date, one prompt per open block."""
    with open_pipeline(run, None, None, None, force=False) as pipeline:
        emit(pipeline.update(interactions), as_json=as_json)
