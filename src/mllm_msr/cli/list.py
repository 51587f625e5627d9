"""`list`: print the names that settings and commands accept, each with its meaning."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._completion import complete_preset
from mllm_msr.cli._options import JsonOption
from mllm_msr.cli._output import emit, make_table
from mllm_msr.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mllm_msr.config.reference import SettingReference

# Kinds of plugins whose arguments are settings.
_WITH_SETTINGS: Final = ("datasets", "backends", "baselines")

# Kinds and their meaning, in the order of `mllm-msr list`.
KINDS: Final[Mapping[str, str]] = {
    "datasets": "Where users, items and images come from: dataset=NAME.",
    "backends": "How models are run: model.backend=NAME.",
    "models": "Checkpoints with settings: model.preset=NAME.",
    "baselines": "Other recommenders: compare --models NAME,NAME.",
    "metrics": "How ranked lists are evaluated; @k is a cut-off.",
    "presets": "Sets of settings to start from: --preset NAME.",
    "experiments": "Tables and figures of the paper: experiment NAME.",
    "stages": "Steps of a run, in their order; each is a command.",
    "settings": "Groups of settings; `list settings GROUP` has details.",
}


@register("list", "List names and settings, with their meaning")
def command(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="datasets, backends, models, baselines, metrics, presets, experiments, stages or "
            "settings.",
            autocompletion=lambda: list(KINDS.items()),
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Group of settings, such as train, or a dataset, backend or baseline, whose "
            "arguments are settings too.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="With `settings GROUP`: list the values of a preset.",
            autocompletion=complete_preset,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the names that settings and commands accept, each with its meaning.

    Without an argument, the kinds are listed. `list settings train` lists the settings of a group,
    `list datasets files` those of a dataset.
    """
    from mllm_msr import registry

    if kind is not None and kind not in KINDS:
        raise registry.unknown_name_error("kind", kind, list(KINDS))
    if (name is not None and kind not in (*_WITH_SETTINGS, "settings")) or (
        preset is not None and kind != "settings"
    ):
        raise UsageError(
            f"A name is only for settings, {', '.join(_WITH_SETTINGS)}, and --preset only for "
            "settings: list settings GROUP."
        )
    values: Mapping[str, Any]
    if kind == "models":
        values, table = _list_models()
    elif kind == "settings" and (name is not None or preset is not None):
        values, table = _list_settings(name, preset)
    elif kind is not None and name is not None:
        values, table = _list_arguments(kind, name)
    else:
        meanings = KINDS if kind is None else _meanings(kind)
        values, table = {kind or "kinds": list(meanings)}, _names_table(meanings)
    emit(values, as_json=as_json, plain=table)


def _meanings(kind: str) -> Mapping[str, str]:
    """Return the meaning of each name of a kind."""
    from mllm_msr import registry

    if kind in typing.get_args(registry.Kind):
        plugins = typing.cast("registry.Kind", kind)
        return {
            name: _without_label(registry.describe(plugins, name))
            for name in registry.names(plugins)
        }
    others: Mapping[str, Callable[[], Mapping[str, str]]] = {
        "presets": _presets,
        "experiments": _experiments,
        "stages": _stages,
        "settings": _groups,
    }
    return others[kind]()


def _without_label(text: str) -> str:
    """Return a description without the kind at its beginning, which the command already names."""
    for start in ("Backend for ", "Dataset from "):
        if text.startswith(start):
            rest = text.removeprefix(start)
            return rest[:1].upper() + rest[1:]
    return text


def _presets() -> Mapping[str, str]:
    from mllm_msr.config.loading import describe_preset, preset_names

    return {name: describe_preset(name) for name in preset_names()}


def _experiments() -> Mapping[str, str]:
    from mllm_msr import experiments

    return {name: f"{experiments.find(name).title}." for name in experiments.names()}


def _stages() -> Mapping[str, str]:
    from mllm_msr.pipeline.pipeline import STAGES

    return {name: (run.__doc__ or "").partition("\n")[0] for name, run in STAGES.items()}


def _groups() -> Mapping[str, str]:
    from mllm_msr.config.reference import groups

    return groups()


def _names_table(meanings: Mapping[str, str]) -> RenderableType:
    from rich.text import Text

    table = make_table("", "", left=(0, 1), wrap=(1,))
    table.show_header = False
    for name, meaning in meanings.items():
        table.add_row(Text(name, style="bold"), Text(meaning))
    return table


def _list_settings(
    group: str | None, preset: str | None
) -> tuple[Mapping[str, Any], RenderableType]:
    """Return the settings of a group, or all, as JSON and as a table."""
    from mllm_msr import registry
    from mllm_msr.config.loading import load_settings
    from mllm_msr.config.reference import GENERAL, groups, reference

    if group is not None and group not in groups():
        raise registry.unknown_name_error("group", group, list(groups()))
    settings = None if preset is None else load_settings(preset, environment={})
    shown = [
        each
        for each in reference(settings)
        if group in (None, each.key.partition(".")[0] if "." in each.key else GENERAL)
    ]
    kinds = {"data": "datasets", "model": "backends", "baselines": "baselines"}
    hint = f"Further settings: mllm-msr list {kinds[group]} NAME" if group in kinds else ""
    return _settings_table(shown, "value" if preset else "default", hint)


def _list_arguments(kind: str, name: str) -> tuple[Mapping[str, Any], RenderableType]:
    """Return the arguments of a dataset, backend or baseline as JSON and as a table."""
    from mllm_msr import registry
    from mllm_msr.config.reference import plugin_reference

    return _settings_table(plugin_reference(typing.cast("registry.Kind", kind), name), "default")


def _settings_table(
    shown: Sequence[SettingReference], value: str, hint: str = ""
) -> tuple[Mapping[str, Any], RenderableType]:
    """Return settings as JSON and as a table with a hint below it."""
    from rich.console import Group
    from rich.text import Text

    table = make_table("setting", value, "meaning", left=(0, 1, 2), wrap=(1, 2))
    for each in shown:
        choices = f" ({each.type})" if " | " in each.type and "null" not in each.type else ""
        table.add_row(Text(each.key, style="bold"), each.default, f"{each.description}{choices}")
    return (
        {"settings": [each._asdict() for each in shown]},
        Group(table, f"\n{hint}") if hint else table,
    )


def _list_models() -> tuple[Mapping[str, Any], RenderableType]:
    """Return the models with a preset as JSON and as a table; unknown facts are blank."""
    from rich.console import Group
    from rich.text import Text

    from mllm_msr.config.model_presets import model_facts, model_preset_names

    facts = [model_facts(name) for name in model_preset_names()]
    table = make_table(
        "model", "size", "license", "context", "vLLM", "use", left=(0, 2, 4, 5), wrap=(5,)
    )
    for model in facts:
        table.add_row(
            Text(model.name, style="bold"),
            model.parameters,
            model.license or "",
            "" if model.context is None else f"{model.context:,}",
            "" if model.vllm is None else "yes" if model.vllm else "no",
            model.use,
        )
    hint = "\nSelect one with model.preset=NAME, or infer.model.preset=NAME for one stage."
    return {"models": [dataclasses.asdict(each) for each in facts]}, Group(table, hint)
