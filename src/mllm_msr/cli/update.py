"""`update`: add new interactions to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._open_run import open_pipeline
from mllm_msr.cli._options import JsonOption, RunOption, parse_path
from mllm_msr.cli._output import emit


@register("update", "Add new interactions to a run")
def command(
    interactions: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A later export of the run's interactions.", parser=parse_path
        ),
    ],
    run: RunOption = Path("runs/run"),
    as_json: JsonOption = False,
) -> None:
    """Add new interactions to a run and update the preferences of their users.

    The file has the columns, units and format of the run's own interactions: use the next export as
    it is. For generated data, the columns are user_id, item_id and timestamp (milliseconds).
    Interactions that the run already contains are ignored.

    Prompts the model once for each block that is new or was incomplete, regardless of the length
    of the history.
    """
    from mllm_msr.pipeline.stages.update import describe

    with open_pipeline(run, None, None, None, force=False) as pipeline:
        counts = pipeline.update(interactions)
    emit(counts, as_json=as_json, plain=describe(counts))
