"""`list`: print the names that settings and commands accept."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mllm_msr.cli._app import app
from mllm_msr.cli._options import JsonOption
from mllm_msr.cli._output import emit
from mllm_msr.errors import UsageError

if TYPE_CHECKING:
    from mllm_msr.config.model_presets import ModelFacts


@app.command("list")
def command(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="datasets, backends, models, baselines, metrics, presets or experiments.",
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """List the names that settings and commands accept."""
    from mllm_msr import experiments, registry
    from mllm_msr.config.loading import preset_names
    from mllm_msr.config.model_presets import model_facts, model_preset_names

    kinds = (*typing.get_args(registry.Kind), "models", "presets", "experiments")
    if kind not in kinds:
        raise UsageError(f"Unknown kind {kind!r}. Available: {', '.join(kinds)}.")
    if kind == "models":
        facts = [model_facts(name) for name in model_preset_names()]
        rows = [dataclasses.asdict(each) for each in facts]
        emit({kind: rows}, as_json=as_json, plain=_model_table(facts))
        return
    if kind == "presets":
        names = preset_names()
    elif kind == "experiments":
        names = experiments.names()
    else:
        names = registry.names(cast("registry.Kind", kind))
    emit({kind: names}, as_json=as_json, plain="\n".join(names))


def _model_table(models: Sequence[ModelFacts]) -> str:
    """Return a table of models that fits 80 columns; unknown facts are blank."""
    columns = "{:<23}{:>5}  {:<12}{:>8}  {:<6}{}"
    lines = [columns.format("model", "size", "license", "context", "vLLM", "use")]
    for model in models:
        vllm = "" if model.vllm is None else "yes" if model.vllm else "no"
        context = "" if model.context is None else f"{model.context:,}"
        lines.append(
            columns.format(
                model.name, model.parameters, model.license or "", context, vllm, model.use
            ).rstrip()
        )
    lines += ["", "Select one with model.preset=NAME, or infer.model.preset=NAME for one stage."]
    return "\n".join(lines)
