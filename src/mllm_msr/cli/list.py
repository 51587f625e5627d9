"""`list`: print the names that settings and commands accept."""

from __future__ import annotations

import typing
from typing import Annotated, cast

import typer

from mllm_msr.cli._app import app
from mllm_msr.cli._options import JsonOption
from mllm_msr.cli._output import emit
from mllm_msr.errors import UsageError


@app.command("list")
def command(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="datasets, backends, baselines, metrics, presets or experiments.",
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """List the names that settings and commands accept."""
    from mllm_msr import experiments, registry
    from mllm_msr.config.loading import preset_names

    kinds = (*typing.get_args(registry.Kind), "presets", "experiments")
    if kind not in kinds:
        raise UsageError(f"Unknown kind {kind!r}. Available: {', '.join(kinds)}.")
    if kind == "presets":
        names = preset_names()
    elif kind == "experiments":
        names = experiments.names()
    else:
        names = registry.names(cast("registry.Kind", kind))
    emit({kind: names}, as_json=as_json, plain="\n".join(names))
