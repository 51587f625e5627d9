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
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import pydantic
import yaml
from pydantic import BaseModel

from mllm_msr import registry
from mllm_msr.config.arguments import declared_type
from mllm_msr.config.checks import check_plugins, check_prompts, check_stages
from mllm_msr.config.model_presets import inherit_model, model_preset_names, read_model_preset
from mllm_msr.config.nested import lookup, merge
from mllm_msr.config.problems import describe_errors, displayed
from mllm_msr.config.reference import reference
from mllm_msr.config.settings import ModelSettings, Settings
from mllm_msr.config.unused import unused_settings
from mllm_msr.config.yaml_source import parse_yaml, yaml_names
from mllm_msr.errors import SettingsError, UnknownNameError

logger = logging.getLogger(__name__)
ENVIRONMENT_PREFIX: Final = "MLLM_MSR__"

# Sections with arguments of a plugin: kind, setting with its name, and section.
_PLUGINS: Final[tuple[tuple[registry.Kind, str, str], ...]] = (
    ("datasets", "dataset", "data"),
    ("backends", "model.backend", "model"),
    ("backends", "summarize.model.backend", "summarize.model"),
    ("backends", "infer.model.backend", "infer.model"),
    ("backends", "score.model.backend", "score.model"),
)
_MODEL_SECTIONS: Final = tuple(section for kind, _, section in _PLUGINS if kind == "backends")
_DEFAULT_PLUGINS: Final[Mapping[str, str]] = {
    "datasets": Settings.model_fields["dataset"].default,
    "backends": ModelSettings.model_fields["backend"].default,
}

# Changes nested settings, and returns the problems if there may be some.
Source = Callable[[dict[str, Any]], list[str] | None]

# Settings to change: "key=value" texts, or a mapping by (dotted) key, which may be nested.
Overrides = Sequence[str] | Mapping[str, Any]

Section = TypeVar("Section", bound=BaseModel)


def preset_names() -> list[str]:
    """Return the names of all presets, in alphabetical order."""
    return yaml_names(files("mllm_msr.config") / "presets")


def describe_preset(name: str) -> str:
    """Return what a preset is for: the first sentence of the comment at the top of its file.

    Args:
        name: One of `preset_names()`.
    """
    text = (files("mllm_msr.config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    comment = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    words = " ".join(line.strip("# ") for line in comment)
    return words.partition(". ")[0].rstrip(".") + "."


def load_settings(
    preset: str | None = "default",
    overrides: Overrides = (),
    *,
    file: Path | str | Sequence[Path | str] | None = None,
    environment: Mapping[str, str] | None = None,
    **sections: Any,
) -> Settings:
    """Read, merge and validate all settings.

    Args:
        preset: One of `preset_names()`; None starts from the defaults.
        overrides: `key=value` strings. Keys are dotted paths, values are YAML ("train.seed=1").
            Or a mapping, `{"train.seed": 1}` or `{"train": {"seed": 1}}`.
        file: A YAML file of settings, such as a run folder's `config.yaml`, or several files;
            later files take precedence.
        environment: Environment variables, by default those of the process.
        **sections: Settings by their first name, `train={"seed": 1}`; they take precedence.

    Raises:
        SettingsError: At least one setting is wrong. The message lists every problem.
        UnknownNameError: The preset does not exist.

    >>> load_settings("demo", {"train.seed": 1}, data={"n_users": 60}).data.n_users
    60
    """
    merged, problems = merge_sources(preset, overrides, file=file, environment=environment)
    _apply(_as_source(sections), merged, problems)
    settings = _validate(merged, problems)
    given = given_settings(_variables(environment), overrides, sections)
    for sentence in unused_settings(settings, given):
        logger.warning("%s", sentence)
    return settings


def merge_sources(
    preset: str | None,
    overrides: Overrides,
    *,
    file: Path | str | Sequence[Path | str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Merge all sources of settings, without validation.

    Args and exceptions are those of `load_settings`.

    Returns:
        The nested settings that the sources contain, and the problems found.
    """
    problems: list[str] = []
    preset, overrides = named_preset(preset, overrides)
    paths = [file] if isinstance(file, (str, Path)) else file or ()
    contents = [_read(Path(path), problems) for path in paths]
    if preset == "default":
        # A settings file of the user's own may select another preset.
        preset = next((str(each["preset"]) for each in contents if "preset" in each), preset)
    merged: dict[str, Any] = {}
    if preset is not None:
        merged = _read_preset(preset)
    for content in contents:
        _apply(functools.partial(merge, source=content), merged, problems)
    if preset is not None:
        merged["preset"] = preset
    texts = _variables(environment)
    if any(text.startswith("preset=") for text in texts):
        problems.append(f"{ENVIRONMENT_PREFIX}PRESET is set. Use the option --preset instead.")
    _apply(functools.partial(_assign, texts=texts), merged, problems)
    _apply(_as_source(overrides), merged, problems)
    return merged, problems


def named_preset(preset: str | None, overrides: Overrides) -> tuple[str | None, Overrides]:
    """Return the preset that an argument `preset=NAME` selects, and the other arguments.

    Args:
        preset: Preset that is selected otherwise; "default" and None give way to the argument.
        overrides: As for `load_settings`.

    Raises:
        SettingsError: Different presets are selected, or `overrides` is a single text.
    """
    names: list[str] = []
    others: Overrides
    if isinstance(overrides, str):
        raise SettingsError([f"The settings are {overrides!r}. Put them into a list or a mapping."])
    if isinstance(overrides, Mapping):
        others = {key: value for key, value in overrides.items() if key != "preset"}
        names += [str(overrides["preset"])] if "preset" in overrides else []
    else:
        names += [text.partition("=")[2] for text in overrides if text.startswith("preset=")]
        others = [text for text in overrides if not text.startswith("preset=")]
    selected = dict.fromkeys([*names, *([preset] if preset not in (None, "default") else [])])
    if len(selected) > 1:
        raise SettingsError([f"Several presets are selected: {', '.join(selected)}. Give one."])
    return next(iter(selected), preset), others


def override(settings: Settings, overrides: Overrides) -> Settings:
    """Return a validated copy of the settings with some of them changed.

    Args:
        settings: Validated settings.
        overrides: As for `load_settings`.

    Raises:
        SettingsError: At least one setting is wrong. The message lists every problem.
    """
    problems: list[str] = []
    merged = settings.model_dump(mode="json")
    _apply(_as_source(overrides), merged, problems)
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


def _read_preset(name: str) -> dict[str, Any]:
    """Return the nested settings of a preset or a model preset.

    Raises:
        UnknownNameError: There is no such preset.
    """
    if name in model_preset_names():
        return read_model_preset(name)
    if name not in preset_names():
        known = [*preset_names(), *model_preset_names()]
        raise registry.unknown_name_error("preset", name, known)
    source = files("mllm_msr.config") / "presets" / f"{name}.yaml"
    content: dict[str, Any] = parse_yaml(source.read_text(encoding="utf-8"))
    return content


def _read(path: Path, problems: list[str]) -> dict[str, Any]:
    """Return the content of a settings file; add a problem and return {} if it has no settings."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        problems.append(f"Cannot read the settings file {path}: {reason}.")
        return {}
    if isinstance(content, dict):
        return content
    problems.append(f"The settings file {path} does not contain a mapping of settings.")
    return {}


def given_settings(*sources: Overrides) -> dict[str, Any]:
    """Return the nested settings that sources contain; later ones take precedence."""
    given: dict[str, Any] = {}
    for source in sources:
        _as_source(source)(given)
    return given


def _variables(environment: Mapping[str, str] | None) -> list[str]:
    """Return the settings in environment variables as `key=value`."""
    variables = os.environ if environment is None else environment
    return [
        f"{name.removeprefix(ENVIRONMENT_PREFIX).lower().replace('__', '.')}={variables[name]}"
        for name in sorted(variables)
        if name.startswith(ENVIRONMENT_PREFIX)
    ]


def _as_source(overrides: Overrides) -> Source:
    """Return a function that applies overrides to nested settings."""
    if not isinstance(overrides, Mapping):
        return functools.partial(_assign, texts=overrides)
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        for part in reversed(key.split(".")):
            value = {part: value}  # noqa: PLW2901
        merge(nested, copy.deepcopy(value))
    return functools.partial(merge, source=nested)


def _apply(source: Source, merged: dict[str, Any], problems: list[str]) -> None:
    """Apply one source to the settings of earlier sources, and add its problems.

    Args:
        source: Changes nested settings and returns the problems.
        merged: Nested settings of the earlier sources, changed in place.
        problems: Extended in place.
    """
    problems += _apply_model_presets(source, merged)
    preview = copy.deepcopy(merged)
    source(preview)
    for kind, setting, section in _PLUGINS:
        old, new = (
            lookup(settings, setting) or _DEFAULT_PLUGINS[kind] for settings in (merged, preview)
        )
        arguments = lookup(merged, section)
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
    problems += source(merged) or []


def _apply_model_presets(source: Source, merged: dict[str, Any]) -> list[str]:
    """Apply the model presets that a source selects, before the source itself.

    A preset replaces the model and adds its other settings. Returns the problems.
    """
    preview = copy.deepcopy(merged)
    source(preview)
    problems = []
    for section in _MODEL_SECTIONS:
        name = lookup(preview, f"{section}.preset")
        if name is None or name == lookup(merged, f"{section}.preset"):
            continue
        try:
            settings = read_model_preset(str(name))
        except UnknownNameError as error:
            problems.append(f"{section}.preset={name!r}: {error}")
            continue
        model = settings.pop("model")
        if section == "model":
            merged.pop("model", None)
            merge(merged, {**settings, "model": model})
        else:
            stage = section.partition(".")[0]
            if not isinstance(merged.get(stage), dict):
                merged[stage] = {}
            merged[stage]["model"] = model
    return problems


def _assign(target: dict[str, Any], texts: Iterable[str]) -> list[str]:
    """Apply `key=value` strings to nested settings, and return the problems."""
    problems = []
    plugins = {setting for _, setting, _ in _PLUGINS}
    # The plugins come first, because they declare the types of their arguments.
    for text in sorted(texts, key=lambda text: text.partition("=")[0] not in plugins):
        key, equals, source = text.partition("=")
        if not equals or not key:
            problems.append(f"{text!r} does not have the form key=value.")
            continue
        try:
            value = _text(source) if _holds_text(target, key) else parse_yaml(source)
        except yaml.YAMLError:
            problems.append(f"{key}={displayed(key, source)}: must be valid YAML.")
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


def _holds_text(settings: Mapping[str, Any], key: str) -> bool:
    """Return whether a setting is an argument of a plugin that is a text, or null.

    YAML would read the names of columns and separators as other values: `yes`, `1e5`, `#`, `,`.
    """
    section, _, name = key.rpartition(".")
    for kind, setting, plugin_section in _PLUGINS:
        if section == plugin_section and key != setting:
            plugin = str(lookup(settings, setting) or _DEFAULT_PLUGINS[kind])
            if plugin not in registry.names(kind):
                return False  # the validation reports it
            declared = declared_type(registry.find(kind, plugin), name)
            return str in (declared, *get_args(declared))
    return False


def _text(source: str) -> str | None:
    """Return a text that may be in quotes; empty and "null" mean that there is none."""
    if source[:1] in {'"', "'"} and len(source) > 1 and source[-1] == source[0]:
        return str(parse_yaml(source))
    return None if source in {"", "null"} else source


def _validate(merged: Mapping[str, Any], problems: list[str]) -> Settings:
    """Return the validated settings; raise `SettingsError` with the given and all new problems."""
    try:
        settings = Settings.model_validate(inherit_model(merged, _MODEL_SECTIONS))
    except pydantic.ValidationError as error:
        known = [*Settings.model_fields, *(setting.key for setting in reference())]
        raise SettingsError([*problems, *describe_errors(error, Settings, "", known)]) from None
    problems = [*problems, *check_plugins(settings), *check_prompts(settings)]
    problems += check_stages(settings)
    known = [*preset_names(), *model_preset_names()]
    if settings.preset not in known:
        problems.append(str(registry.unknown_name_error("preset", settings.preset, known)))
    too_large = [fold for fold in settings.data.run_folds or () if fold >= settings.data.folds]
    if too_large:
        problems.append(
            f"data.run_folds={too_large}: must be at most {settings.data.folds - 1}, because "
            f"data.folds={settings.data.folds}."
        )
    if problems:
        raise SettingsError(problems)
    return settings
