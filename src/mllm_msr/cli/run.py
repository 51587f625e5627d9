"""`run`: every stage, from raw data to the report."""

from __future__ import annotations

from pathlib import Path

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._logging import is_quiet
from mllm_msr.cli._open_run import open_pipeline
from mllm_msr.cli._options import (
    ConfigOption,
    ExecutorOption,
    ForceOption,
    JsonOption,
    Overrides,
    PresetOption,
    RunOption,
    settings_help,
    with_executor,
)
from mllm_msr.cli._results import emit_results
from mllm_msr.cli._stage_text import data_text


@register("run", "Run every stage, from raw data to the report", cls=settings_help())
def command(
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    preset: PresetOption = None,
    config: ConfigOption = None,
    executor: ExecutorOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run every stage, from raw data to the report.

    Finished stages are skipped, so the same command resumes an interrupted run.
    """
    overrides = with_executor(settings, executor)
    with open_pipeline(run, preset, config, overrides, force=force, creates=True) as pipeline:

        def show_data(stage: str) -> None:
            if stage == "prepare" and not is_quiet():
                typer.echo(f"{data_text(pipeline)}\n", err=True)

        pipeline.run_all(done=show_data)
        emit_results(pipeline, as_json=as_json)
