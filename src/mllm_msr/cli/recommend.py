"""`recommend`: items out of the whole catalogue for a user of a run, or for a list of items."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllm_msr.cli.app import app
from mllm_msr.cli.options import JsonOption, RunOption
from mllm_msr.cli.output import emit
from mllm_msr.errors import UsageError

if TYPE_CHECKING:
    from mllm_msr.recommend.recommender import MllmMsr
    from mllm_msr.recommend.reranking import RecommendationList


@app.command("recommend")
def _recommend(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings, for instance retrieve.budget=100"),
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="A user of the run.")] = None,
    history: Annotated[
        str | None,
        typer.Option(metavar="ID,ID,...", help="Instead of a user: items, oldest first."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Length of the list.")] = 10,
    budget: Annotated[
        int | None,
        typer.Option(min=0, help="Candidates that the model ranks; retrieve.budget if left out."),
    ] = None,
    strict: Annotated[bool, typer.Option(help="Refuse unknown users.")] = False,
    run: RunOption = Path("runs/run"),
    as_json: JsonOption = False,
) -> None:
    """Recommend items of the whole catalogue, and say what they answer."""
    if (user is None) == (history is None):
        raise UsageError(
            needed="either --user or --history",
            received="both" if user is not None else "none of them",
            remedy="give one of them",
        )
    from mllm_msr.recommend.recommender import MllmMsr

    with MllmMsr.from_run(run, overrides=settings or ()) as model:
        if user is not None:
            found = model.recommend(user, k, budget=budget, strict=strict)
        else:
            found = model.recommend_to((history or "").split(","), k, budget=budget)
        emit(asdict(found), as_json=as_json, plain=_plain(model, found))


def _plain(model: MllmMsr, found: RecommendationList) -> str:
    lines = [found.preference or "(no preference)", ""]
    if found.fallback_reason is not None:
        lines += [f"The model ranked nothing: {found.fallback_reason}.", ""]
    for item in found.items:
        score = f"{item.score:.3f}" if item.score is not None else "  -  "
        title = model.catalogue.item(item.item_id).title
        why = f"  ({', '.join(item.answers)})" if item.answers else ""
        lines.append(f"{item.rank:>3}  {score}  {item.item_id}  {title}{why}")
    return "\n".join(lines)
