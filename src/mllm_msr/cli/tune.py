"""`tune`: a search for baselines' settings on validation users."""

from __future__ import annotations

from dataclasses import asdict
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


@app.command("tune", cls=StageCommand)
def _tune(
    models: Annotated[
        str, typer.Option(metavar="A,B,...", help="Names of `list baselines` with a space.")
    ],
    trials: Annotated[
        int, typer.Option(min=1, help="Trials of each model, earlier ones included.")
    ],
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    metric: Annotated[str, typer.Option(help="What is maximised on validation users.")] = "ndcg@5",
    fold: Annotated[
        int | None, typer.Option(min=0, help="Fold to search in; the first one by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search baselines' settings with Optuna on validation users; goes on if stopped.

    The best settings are written as tuning/best.yaml in the run folder: read it with --config.
    """
    from mllm_msr.pipeline.tune import FOLDER, tune

    asked = list(dict.fromkeys(name.strip() for name in models.split(",") if name.strip()))
    with open_pipeline(run, preset, config, settings, force=force) as pipeline:
        found = tune(pipeline, asked, trials=trials, metric=metric, fold=fold, seed=seed)
    best = run / FOLDER / "best.yaml"
    lines = [
        f"{tuned.model:<17}{tuned.metric} {tuned.best:.4f} after {tuned.trials} trials "
        f"(defaults: {'failed' if tuned.default is None else f'{tuned.default:.4f}'})"
        for tuned in found
    ]
    emit(
        {"models": [asdict(tuned) for tuned in found], "best": str(best)},
        as_json=as_json,
        plain="\n".join([*lines, f"best settings: {best}"]),
    )
