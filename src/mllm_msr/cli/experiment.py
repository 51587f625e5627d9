"""`experiment`: reproduce a table or figure of the paper on a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    settings_help,
    split_names,
)
from mllm_msr.cli._output import emit
from mllm_msr.errors import UsageError


@register("experiment", "Reproduce a table or figure of the paper", cls=settings_help())
def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `list experiments`.")],
    settings: Overrides = None,
    run: RunOption = Path("runs/demo"),
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="S,S,...",
            help="Seeds of the repetitions: data seeds for the generated dataset, training seeds "
            "for others.",
        ),
    ] = None,
    systems: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Systems to score; the first is tested against the others. Default: all.",
        ),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Reproduce a table or figure of the paper on a run folder.

    A new folder is created only if the settings name a dataset, for example with --preset. The same
    command resumes an interrupted experiment.
    """
    from mllm_msr import experiments
    from mllm_msr.experiments._runner import run_experiment

    experiment = experiments.find(name)
    selected = None if systems is None else split_names(systems)
    with open_pipeline(run, preset, config, settings, force=force, creates=True) as pipeline:
        folder = run_experiment(experiment, pipeline, seeds=_parse_seeds(seeds), systems=selected)
    page = folder / f"{name}.md"
    emit(
        {"experiment": name, "results": str(folder), "page": str(page)},
        as_json=as_json,
        plain=f"{page.read_text(encoding='utf-8')}\nresults: {folder}",
    )


def _parse_seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = split_names(text)
    if not parts or not all(part.isdecimal() for part in parts):
        raise UsageError(
            f"--seeds={text!r} is not a list of non-negative integers. "
            "Separate them with commas, as in --seeds 0,1,2."
        )
    return [int(part) for part in parts]
