"""Checks of settings beyond their types: plugins and their arguments, words and templates."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

import pydantic
from pydantic import TypeAdapter

from mllm_msr import registry
from mllm_msr.config.problems import did_you_mean, rule
from mllm_msr.config.settings import DataSettings, ModelSettings, Settings
from mllm_msr.errors import SettingsError, UnknownNameError, UsageError
from mllm_msr.prompts.item_types import find_item_type
from mllm_msr.prompts.templates import read_templates


def check_prompts(settings: Settings) -> list[str]:
    """Return the problems with the words and the templates of the prompts."""
    problems: list[str] = []
    try:
        find_item_type(settings.item_type or "item")
    except UsageError as error:
        problems.append(str(error))
    try:
        if settings.prompts.folder is not None:
            read_templates(settings.prompts.folder)
    except SettingsError as error:
        problems += error.problems
    return problems


def check_plugins(settings: Settings) -> list[str]:
    """Return the problems with plugin names and with the arguments of plugin constructors."""
    problems = _check_arguments("datasets", settings.dataset, settings.data.plugin_kwargs(), "data")
    for section, model in [
        ("model", settings.model),
        ("summarize.model", settings.summarize.model),
        ("infer.model", settings.infer.model),
        ("score.model", settings.score.model),
    ]:
        if model is not None:
            problems += _check_arguments("backends", model.backend, model.plugin_kwargs(), section)
    for name in settings.score.baselines:
        problems += _check_arguments("baselines", name, {}, "score.baselines")
    for name, arguments in settings.baselines.plugin_kwargs().items():
        if isinstance(arguments, dict):
            problems += _check_arguments("baselines", name, arguments, f"baselines.{name}")
        else:
            problems.append(
                f"baselines.{name}={arguments!r}: must be a mapping of arguments, as in "
                f"baselines.{name}.seed=1."
            )
    return problems


def _check_arguments(
    kind: registry.Kind, name: str, arguments: Mapping[str, Any], section: str
) -> list[str]:
    """Return the problems with a plugin's name and the arguments of its constructor."""
    try:
        plugin = registry.find(kind, name)
    except UnknownNameError as error:
        return [str(error)]
    label = f"{kind.removesuffix('s')} {name!r}"
    parameters = inspect.signature(plugin).parameters
    fields = {"datasets": DataSettings.model_fields, "backends": ModelSettings.model_fields}
    known = [f"{section}.{key}" for key in (*parameters, *fields.get(kind, ()))]
    problems = []
    for key, value in arguments.items():
        full = f"{section}.{key}"
        if key not in parameters:
            hint = did_you_mean(full, known)
            problems.append(f"Unknown setting {full!r} of the {label}.{hint}")
            continue
        try:
            TypeAdapter(_declared_type(plugin, key)).validate_python(value)
        except pydantic.ValidationError as error:
            text = rule(detail["msg"] for detail in error.errors())
            problems.append(f"{full}={value!r}: {text}")
        except pydantic.errors.PydanticSchemaGenerationError:
            continue  # pydantic cannot validate this type; the constructor checks it
    for key, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if required and key not in arguments and kind != "baselines":
            problems.append(f"The {label} requires the setting {section + '.' + key!r}.")
    return problems


def _declared_type(plugin: type, argument: str) -> Any:
    """Return the declared type of a constructor's argument, or Any if it cannot be resolved."""
    constructor = plugin.__init__  # type: ignore[misc]
    annotation = getattr(constructor, "__annotations__", {}).get(argument, Any)
    # Resolve only this annotation; others may use names that are imported for type checkers only.
    holder = type("Holder", (), {"__annotations__": {argument: annotation}})
    holder.__module__ = constructor.__module__
    try:
        return get_type_hints(holder)[argument]
    except NameError:
        return Any
