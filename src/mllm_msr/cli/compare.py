"""`compare`: several systems on the candidates of one run folder."""

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
from mllm_msr.cli.output import emit, result_lines


@app.command("compare", cls=StageCommand)
def _compare(
    settings: Overrides = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="mllm_msr, mllm_msr_direct, mllm_msr_text_only, zero_shot, or names of `list baselines`; "
            "by default the baselines of score.baselines.",
        ),
    ] = None,
    run: RunOption = Path("runs/run"),
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train, score and judge models on one run folder's candidates; goes on if stopped."""
    from mllm_msr.pipeline.compare import compare

    with open_pipeline(run, preset, config, settings, force=force) as pipeline:
        named = pipeline.settings.score.baselines if models is None else models.split(",")
        asked = list(dict.fromkeys(name.strip() for name in named if name.strip()))
        result = compare(pipeline, asked)
    emit(result, as_json=as_json, plain=result_lines(result))
