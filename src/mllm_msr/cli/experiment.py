"""`experiment`: a table or figure of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli.app import app
from mllm_msr.cli.open_run import open_pipeline
from mllm_msr.cli.options import (
    ConfigOption,
    ForceOption,
    JsonOption,
    Overrides,
    PresetOption,
    RunOption,
    StageCommand,
)
from mllm_msr.cli.output import emit
from mllm_msr.errors import UsageError


@app.command("experiment", cls=StageCommand)
def _experiment(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `list experiments`.")],
    settings: Overrides = None,
    run: RunOption = Path("runs/demo"),
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="S,S,...", help="Seeds of the generated world, or of training on other data."
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="R,R,...",
            help="Rows to do, the first tested against the others; all where it is left out.",
        ),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Do a table or figure of the paper on a run folder; goes on where it was stopped.

    Without a run in the folder, the demo's settings are taken.
    """
    from mllm_msr import experiments
    from mllm_msr.experiments._running import run_experiment

    experiment = experiments.find(name)
    if preset is None and not (run / "config.yaml").is_file():
        preset = "demo"
    with open_pipeline(run, preset, config, settings, force=force) as pipeline:
        folder = run_experiment(experiment, pipeline, seeds=_numbers(seeds), rows=_names(rows))
    page = folder / f"{name}.md"
    emit(
        {"experiment": name, "results": str(folder), "page": str(page)},
        as_json=as_json,
        plain=f"{page.read_text(encoding='utf-8')}\nresults: {folder}",
    )


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str | None) -> list[int] | None:
    parts = _names(text)
    if parts is None:
        return None
    if not parts or not all(part.isdecimal() for part in parts):
        raise UsageError(
            needed="whole numbers from 0 on, separated by commas",
            received=repr(text),
            remedy="give seeds such as --seeds 0,1,2",
        )
    return [int(part) for part in parts]
