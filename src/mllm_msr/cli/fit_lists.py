"""`fit-lists`: fit how lists combine candidate generators and the model, and choose the budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._open_run import open_pipeline
from mllm_msr.cli._options import (
    ExecutorOption,
    ForceOption,
    JsonOption,
    Overrides,
    RunOption,
    settings_help,
    with_executor,
)
from mllm_msr.cli._output import emit, make_table

if TYPE_CHECKING:
    from rich.console import RenderableType

_FITTED: Final = ("retrieve.order=auto", "retrieve.budget=null")


@register(
    "fit-lists",
    "Fit recommendation lists on validation users",
    cls=settings_help("retrieve", "model", "executor", "baselines"),
)
def command(
    settings: Overrides = None,
    users: Annotated[
        int, typer.Option(metavar="N", min=1, help="Maximum number of validation users per fold.")
    ] = 64,
    budget: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Candidates that the model scores for each of them."),
    ] = 50,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Seed of the sample and of the tests.")
    ] = 0,
    fold: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Fold to fit; by default all of the run.")
    ] = None,
    run: RunOption = Path("runs/run"),
    executor: ExecutorOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fit how recommendation lists combine the candidate generators and the model.

    The weights are fitted on validation users, with their targets hidden. The number of model calls
    per list becomes the smallest one that makes these lists significantly better, or 0. `recommend`
    and `serve` then use both. Sets retrieve.order=auto and retrieve.budget=null.

    Prompts the model up to users x budget times per fold. An interrupted command resumes.
    """
    from mllm_msr.recommend.fit_lists import FitOptions, fit_lists

    options = FitOptions(users=users, budget=budget, seed=seed)
    # Other settings of the run would take precedence over the fitted weights.
    overrides = [*_FITTED, *(with_executor(settings, executor) or ())]
    with open_pipeline(run, None, None, overrides, force=force) as pipeline:
        folds = None if fold is None else [fold]
        found = fit_lists(pipeline.context, pipeline.settings, options, folds=folds)
        # The weights belong to the candidate generators of these settings.
        pipeline.save_settings()
    emit({"folds": found}, as_json=as_json, plain=_format(found))


def _format(found: Mapping[int, Mapping[str, Any]]) -> RenderableType:
    """Return the weights, the quality by budget and the choice of each fold."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for fold, content in found.items():
        weights = make_table("generator", "rank", "score")
        for name, weight in content["generators"].items():
            weights.add_row(name, f"{weight['rank']:.1f}", f"{weight['score']:.2f}")
        quality = make_table("calls", "NDCG@10", "95 %", "HR@10", "p", left=(), wrap=())
        for row in content["budgets"]:
            cell = row["ndcg@10"]
            quality.add_row(
                str(row["budget"]),
                f"{cell['mean']:.3f}",
                f"{cell['low']:.3f}-{cell['high']:.3f}",
                f"{row['hr@10']['mean']:.3f}",
                f"{row['p_value']:.3f}" if row["budget"] else "",
            )
        parts += [
            Text(f"Fold {fold}, {content['users']} validation users"),
            Text(f"\nWeight of the model: {content['model']['slope']:.2f} x logit of P(yes)\n"),
            weights,
            Text(),
            quality,
            Text(f"\nBudget: {content['budget']}. {content['reason']}"),
        ]
    return Group(*parts)
