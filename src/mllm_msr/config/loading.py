"""Loading of settings from presets, YAML files, environment variables and the command line.

The result is one frozen, validated `Settings` object. Sources in order of increasing priority: the
preset, settings files, environment variables (`MLLM_MSR__TRAIN__SEED=1`) and `key=value` arguments.
A source that selects another dataset or backend removes the arguments of the replaced one that the
new one does not take. Unknown settings are errors, and all problems are reported together, before
any stage runs.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

import pydantic
import yaml
from pydantic import BaseModel, TypeAdapter

from mllm_msr import registry
from mllm_msr.config.problems import describe_errors, did_you_mean, rule
from mllm_msr.config.reference import reference
from mllm_msr.config.settings import DataSettings, ModelSettings, Settings
from mllm_msr.errors import SettingsError, UnknownNameError, UsageError
from mllm_msr.prompts.item_types import find_item_type
from mllm_msr.prompts.templates import read_templates

ENVIRONMENT_PREFIX: Final = "MLLM_MSR__"

# Sections with arguments of a plugin: kind, setting with its name, and section.
_PLUGINS: Final[tuple[tuple[registry.Kind, str, str], ...]] = (
    ("datasets", "dataset", "data"),
    ("backends", "model.backend", "model"),
    ("backends", "summarize.model.backend", "summarize.model"),
    ("backends", "infer.model.backend", "infer.model"),
    ("backends", "score.model.backend", "score.model"),
)
_DEFAULT_PLUGINS: Final[Mapping[str, str]] = {
    "datasets": Settings.model_fields["dataset"].default,
    "backends": ModelSettings.model_fields["backend"].default,
}

Section = TypeVar("Section", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML loader that reads 1e-3 as a number; YAML 1.1 requires 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d[\d_]*(?:\.\d*)?[eE][-+]?\d+"),
    list("-+0123456789"),
)


def preset_names() -> list[str]:
    """Return the names of all presets, in alphabetical order."""
    folder = files("mllm_msr.config") / "presets"
    names = (path.name for path in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_settings(
    preset: str | None = "default",
    overrides: Sequence[str] = (),
    *,
    file: Path | Sequence[Path] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read, merge and validate all settings.

    Args:
        preset: One of `preset_names()`; None starts from the defaults.
        overrides: `key=value` strings. Keys are dotted paths, values are YAML ("train.seed=1").
        file: A YAML file of settings, such as a run folder's `config.yaml`, or several files;
            later files take precedence.
        environment: Environment variables, by default those of the process.

    Raises:
        SettingsError: At least one setting is wrong. The message lists every problem.
        UnknownNameError: The preset does not exist.
    """
    return _validate(*merge_sources(preset, overrides, file=file, environment=environment))


def merge_sources(
    preset: str | None,
    overrides: Sequence[str],
    *,
    file: Path | Sequence[Path] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Merge all sources of settings, without validation.

    Args and exceptions are those of `load_settings`.

    Returns:
        The nested settings that the sources contain, and the problems found.
    """
    problems: list[str] = []
    preset, overrides = named_preset(preset, overrides)
    contents = [
        _read(path, problems) for path in ([file] if isinstance(file, Path) else file or ())
    ]
    if preset == "default":
        # A settings file of the user's own may select another preset.
        preset = next((str(each["preset"]) for each in contents if "preset" in each), preset)
    merged: dict[str, Any] = {}
    if preset is not None:
        if preset not in preset_names():
            raise registry.unknown_name_error("preset", preset, preset_names())
        source = files("mllm_msr.config") / "presets" / f"{preset}.yaml"
        merged = _parse(source.read_text(encoding="utf-8"))
    for content in contents:
        _apply(functools.partial(_merge, source=content), merged, problems)
    if preset is not None:
        merged["preset"] = preset
    variables = os.environ if environment is None else environment
    texts = [
        f"{name.removeprefix(ENVIRONMENT_PREFIX).lower().replace('__', '.')}={variables[name]}"
        for name in sorted(variables)
        if name.startswith(ENVIRONMENT_PREFIX)
    ]
    if any(text.startswith("preset=") for text in texts):
        problems.append(f"{ENVIRONMENT_PREFIX}PRESET is set. Use the option --preset instead.")
    _apply(functools.partial(_assign, texts=texts), merged, problems)
    _apply(functools.partial(_assign, texts=overrides), merged, problems)
    return merged, problems


def named_preset(preset: str | None, overrides: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the preset that an argument `preset=NAME` selects, and the other arguments.

    Args:
        preset: Preset that is selected otherwise; "default" and None give way to the argument.
        overrides: `key=value` strings.

    Raises:
        SettingsError: Different presets are selected.
    """
    names = [text.partition("=")[2] for text in overrides if text.startswith("preset=")]
    others = [text for text in overrides if not text.startswith("preset=")]
    selected = dict.fromkeys([*names, *([preset] if preset not in (None, "default") else [])])
    if len(selected) > 1:
        raise SettingsError([f"Several presets are selected: {', '.join(selected)}. Give one."])
    return next(iter(selected), preset), others


def override(settings: Settings, overrides: Sequence[str]) -> Settings:
    """Return a validated copy of the settings with some of them changed.

    Args:
        settings: Validated settings.
        overrides: `key=value` strings, as for `load_settings`.

    Raises:
        SettingsError: At least one setting is wrong. The message lists every problem.
    """
    problems: list[str] = []
    merged = settings.model_dump(mode="json")
    _apply(functools.partial(_assign, texts=overrides), merged, problems)
    return _validate(merged, problems)


def validate_section(section: type[Section], values: Mapping[str, Any], *, key: str) -> Section:
    """Return one section of settings from values that do not come from a settings file.

    Args:
        section: Class of the section, such as `TrainSettings`.
        values: Values by field name; missing ones have their defaults.
        key: Name of the section in messages, such as "baselines.tallrec".

    Raises:
        SettingsError: At least one value is wrong. The message lists every problem.
    """
    try:
        return section.model_validate(values)
    except pydantic.ValidationError as error:
        known = [f"{key}.{name}" for name in section.model_fields]
        raise SettingsError(list(describe_errors(error, section, f"{key}.", known))) from None


def _read(path: Path, problems: list[str]) -> dict[str, Any]:
    """Return the content of a settings file; add a problem and return {} if it has no settings."""
    try:
        content = _parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        problems.append(f"Cannot read the settings file {path}: {reason}.")
        return {}
    if isinstance(content, dict):
        return content
    problems.append(f"The settings file {path} does not contain a mapping of settings.")
    return {}


def _parse(text: str) -> Any:
    # A subclass of the safe loader: it only creates plain data.
    return yaml.load(text, Loader=_Loader)  # noqa: S506


def _apply(
    source: Callable[[dict[str, Any]], list[str]], merged: dict[str, Any], problems: list[str]
) -> None:
    """Apply one source to the settings of earlier sources, and add its problems.

    Args:
        source: Changes nested settings and returns the problems.
        merged: Nested settings of the earlier sources, changed in place.
        problems: Problems so far, extended in place.
    """
    preview = copy.deepcopy(merged)
    source(preview)
    for kind, setting, section in _PLUGINS:
        old, new = (
            _lookup(settings, setting) or _DEFAULT_PLUGINS[kind] for settings in (merged, preview)
        )
        arguments = _lookup(merged, section)
        if old == new or not isinstance(arguments, dict):
            continue
        try:
            before, after = (
                inspect.signature(registry.find(kind, str(name))).parameters for name in (old, new)
            )
        except UnknownNameError:
            continue  # the validation reports it
        for key in set(arguments) & set(before) - set(after):
            del arguments[key]
    problems += source(merged)


def _lookup(settings: Mapping[str, Any], key: str) -> Any:
    """Return a value of nested settings by its dotted key, or None."""
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> list[str]:
    """Merge nested settings into others, and return no problems."""
    for key, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value
    return []


def _assign(target: dict[str, Any], texts: Iterable[str]) -> list[str]:
    """Apply `key=value` strings to nested settings, and return the problems."""
    problems = []
    for text in texts:
        key, equals, source = text.partition("=")
        if not equals or not key:
            problems.append(f"{text!r} does not have the form key=value.")
            continue
        try:
            # Formats of dates and separators may begin with characters that YAML reserves.
            value = source if source.startswith(("%", "|", ">", "@", "`")) else _parse(source)
        except yaml.YAMLError:
            problems.append(f"{key}={source!r}: must be valid YAML.")
            continue
        *parents, last = key.split(".")
        section = target
        for parent in parents:
            child = section.get(parent)
            if not isinstance(child, dict):
                child = section[parent] = {}
            section = child
        section[last] = value
    return problems


def _validate(merged: Mapping[str, Any], problems: list[str]) -> Settings:
    """Return the validated settings; raise `SettingsError` with the given and all new problems."""
    try:
        settings = Settings.model_validate(merged)
    except pydantic.ValidationError as error:
        known = [*Settings.model_fields, *(setting.key for setting in reference())]
        raise SettingsError([*problems, *describe_errors(error, Settings, "", known)]) from None
    problems = [*problems, *_check_plugins(settings)]
    if settings.preset not in preset_names():
        problems.append(str(registry.unknown_name_error("preset", settings.preset, preset_names())))
    problems += _check_prompts(settings)
    too_large = [fold for fold in settings.data.run_folds or () if fold >= settings.data.folds]
    if too_large:
        problems.append(
            f"data.run_folds={too_large}: must be at most {settings.data.folds - 1}, because "
            f"data.folds={settings.data.folds}."
        )
    if problems:
        raise SettingsError(problems)
    return settings


def _check_prompts(settings: Settings) -> list[str]:
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


def _check_plugins(settings: Settings) -> list[str]:
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
