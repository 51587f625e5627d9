"""`compare`: evaluate several models on the candidates of one run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._completion import complete_models
from mllm_msr.cli._open_run import open_pipeline
from mllm_msr.cli._options import (
    ConfigOption,
    JsonOption,
    Overrides,
    PresetOption,
    RunOption,
    settings_help,
    split_names,
)
from mllm_msr.cli._output import emit
from mllm_msr.cli._results import run_results


@register("compare", "Evaluate several models on the same candidates", cls=settings_help())
def command(
    settings: Overrides = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="mllm_msr, mllm_msr_direct, mllm_msr_text_only, zero_shot, or names from "
            "`list baselines`; default: the baselines in score.baselines.",
            autocompletion=complete_models,
        ),
    ] = None,
    run: RunOption = Path("runs/run"),
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Score the models, and run ablations, again.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train, score and evaluate models on the same candidates.

    The candidates are those of the run folder. The tables show all models of the run, the JSON
    output those that are given. Models with finished scores are skipped, so the
    same command resumes an interrupted comparison. --force does not repeat earlier stages,
    such as the training of MLLM-MSR: use their own commands.
    """
    from mllm_msr.pipeline.compare import compare

    with open_pipeline(run, preset, config, settings, force=force, creates=True) as pipeline:
        baselines = pipeline.settings.score.baselines
        result = compare(pipeline, baselines if models is None else split_names(models))
        plain = "" if as_json else run_results(pipeline)
    emit(result, as_json=as_json, plain=plain)
