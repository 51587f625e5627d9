"""`recommend`: recommend items to a user of a run, or for a list of items."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._options import JsonOption, Overrides, RunOption, settings_help
from mllm_msr.cli._output import emit, make_table
from mllm_msr.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mllm_msr.recommend.lists import RecommendationList


@register("recommend", "Recommend items to a user or for a history", cls=settings_help("retrieve"))
def command(
    settings: Overrides = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="ID", help="A user of the run.")
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(metavar="ID,ID,...", help="History to use instead of a user, oldest first."),
    ] = None,
    k: Annotated[
        int, typer.Option("-k", metavar="N", min=1, help="Number of recommendations.")
    ] = 10,
    budget: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Candidates that the model ranks; default: retrieve.budget, else of fit-lists.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option(help="Fail if the user is unknown.")] = False,
    run: RunOption = Path("runs/run"),
    as_json: JsonOption = False,
) -> None:
    """Recommend items from the full catalog.

    Each item is printed with what it matches: phrases of the preference, or titles of the history
    if the model reads it.
    """
    if (user is None) == (history is None):
        given = "neither is" if user is None else "both are"
        raise UsageError(f"Give exactly one of --user and --history; {given} given.")
    if strict and user is None:
        raise UsageError("--strict checks a user, but --history is given. Leave --strict out.")
    items = _split(history or "")
    if user is None and not items:
        raise UsageError("--history contains no item. Give at least one id, or use --user.")
    from mllm_msr.recommend.recommender import MllmMsr

    with MllmMsr.from_run(run, overrides=settings or ()) as model:
        if user is not None:
            recommendations = model.recommend(user, k, budget=budget, strict=strict)
        else:
            recommendations = model.recommend_for_history(items, k, budget=budget)
        is_fused = model.settings.retrieve.order != "model"
        plain = _format_list(recommendations, is_fused=is_fused)
    values = asdict(recommendations)
    for item in values["items"]:
        del item["image"]  # a path of this machine
    emit(values, as_json=as_json, plain=plain)


def _split(history: str) -> list[str]:
    """Return the ids of a list; ids that contain a comma are in double quotes."""
    rows = csv.reader(history.splitlines(), skipinitialspace=True)
    return [part.strip() for row in rows for part in row if part.strip()]


def _format_list(recommendations: RecommendationList, *, is_fused: bool = True) -> RenderableType:
    """Return the preference, and a table of the items with the phrases that they match.

    Args:
        recommendations: The list.
        is_fused: Whether the order depends on the candidate generators too.
    """
    from rich.console import Group
    from rich.text import Text

    table = make_table("", "match", "item", "title", "matches", left=(2, 3, 4), wrap=(2, 3, 4))
    for item in recommendations:
        reason = f"no score: {item.reason}" if item.reason else ""
        table.add_row(
            str(item.rank),
            "-" if item.score is None else f"{item.score:.3f}",
            Text(item.item_id),
            Text(item.title),
            Text(reason or item.quoted_matches),
        )
    # A run with recommend.reads=history infers no preference.
    written = recommendations.preference
    preference = [Text(written + "\n")] if written else []
    notes = [Text(note + "\n") for note in recommendations.notes()]
    legend = "\nmatch: how strongly the model answers yes, not the chance that the item comes next."
    if is_fused:
        legend += " The order also counts the candidate generators."
    scored = any(item.score is not None for item in recommendations)
    return Group(*preference, *notes, table, *([legend] if scored else []))
