"""`tune`: search hyperparameters of baselines on validation users."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from mllm_msr.cli._output import emit, make_table, unbroken
from mllm_msr.cli._results import display_path

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mllm_msr.pipeline.tune import TuningResult


@register("tune", "Search hyperparameters of baselines", cls=settings_help("data", "baselines"))
def command(
    models: Annotated[
        str,
        typer.Option(
            metavar="A,B,...", help="Names from `list baselines` that declare a search space."
        ),
    ],
    trials: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Trials per model, including trials of earlier searches."
        ),
    ],
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    metric: Annotated[
        str, typer.Option(metavar="METRIC", help="Metric to maximize on validation users.")
    ] = "ndcg@5",
    fold: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Fold to search in; default: the first one."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the search.")] = 0,
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search hyperparameters of baselines on validation users.

    Uses Optuna. The best settings are written to tuning/best.yaml in the run folder; pass that
    file to --config. The same command resumes an interrupted search.
    """
    from mllm_msr.pipeline.tune import BEST_SETTINGS, tune

    with open_pipeline(run, preset, config, settings, force=force, creates=True) as pipeline:
        results = tune(
            pipeline, split_names(models), trials=trials, metric=metric, fold=fold, seed=seed
        )
    best = run / BEST_SETTINGS
    emit(
        {"models": [asdict(tuned) for tuned in results], "best": str(best)},
        as_json=as_json,
        plain=_format_searches(results, best, run),
    )


def _format_searches(results: Sequence[TuningResult], best: Path, run: Path) -> RenderableType:
    """Return the best values and those of the defaults, and the command that uses the best."""
    from rich.console import Group

    table = make_table("model", "metric", "best", "defaults", "trials", left=(0, 1))
    for tuned in results:
        default = "failed" if tuned.default is None else f"{tuned.default:.4f}"
        table.add_row(tuned.model, tuned.metric, f"{tuned.best:.4f}", default, str(tuned.trials))
    models = ",".join(tuned.model for tuned in results)
    folder, file = display_path(run), display_path(best)
    command = shlex.join(
        ["mllm-msr", "compare", "--models", models, "--run", folder, "--config", file]
    )
    return Group(table, "", unbroken([f"Best settings  {file}", f"Next           {command}"]))
