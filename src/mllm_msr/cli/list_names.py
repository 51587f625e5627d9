"""`list`: the names that settings may use."""

from __future__ import annotations

from typing import Annotated

import typer

from mllm_msr.cli.app import app
from mllm_msr.cli.options import JsonOption
from mllm_msr.cli.output import emit
from mllm_msr.errors import UsageError


@app.command("list")
def _list(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="datasets|backends|baselines|presets|experiments", help="What to list."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """List the names that settings may use."""
    from mllm_msr import registry

    if kind == "presets":
        from mllm_msr.config.loading import preset_names

        names = preset_names()
    elif kind == "experiments":
        from mllm_msr import experiments

        names = experiments.names()
    elif kind in ("datasets", "backends", "baselines"):
        names = registry.names(kind)  # type: ignore[arg-type]
    else:
        raise UsageError(
            needed="one of datasets, backends, baselines, presets, experiments",
            received=repr(kind),
            remedy="choose one of them",
        )
    emit({kind: names}, as_json=as_json, plain="\n".join(names))
