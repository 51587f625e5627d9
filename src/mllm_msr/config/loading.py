"""Settings: YAML and `key=value` become one frozen, checked object; here they stop.

Order, later wins: the preset, a settings file, the environment (`MLLM_MSR__TRAIN__SEED=1`), and
`key=value` arguments. Unknown keys are errors and all problems are reported at once. Stages never
see these classes: `pipeline/pipeline.py` hands them flat keyword arguments.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

import pydantic
import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from mllm_msr import registry
from mllm_msr.config.settings import DataSettings, ModelSettings, Settings
from mllm_msr.errors import SettingsError, UnknownNameError
from mllm_msr.prompts.templates import ITEM_TYPES

ENVIRONMENT_PREFIX: Final = "MLLM_MSR__"

Section = TypeVar("Section", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as people write it; YAML 1.1 demands 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d[\d_]*(?:\.\d*)?[eE][-+]?\d+"),
    list("-+0123456789"),
)


def preset_names() -> list[str]:
    """Names of the presets that are shipped, in alphabetical order."""
    folder = files("mllm_msr.config") / "presets"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name[-5:] == ".yaml")


def load_settings(
    preset: str | None = "default",
    overrides: Sequence[str] = (),
    *,
    file: Path | Sequence[Path] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read, merge and check all settings.

    Args:
        preset: A name of `preset_names()`; `None` starts from the defaults.
        overrides: `key=value` texts; keys have dots, values are YAML ("train.seed=1").
        file: A YAML file of settings, for instance a run folder's `config.yaml`; or several, of
            which the later win.
        environment: Variables to read; the process's own by default.

    Raises:
        SettingsError: Anything is wrong; the message lists every problem.
        UnknownNameError: The preset does not exist.
    """
    problems: list[str] = []
    merged: dict[str, Any] = _preset(preset) if preset is not None else {}
    for path in [file] if isinstance(file, Path) else file or ():
        _merge(merged, _yaml_file(path, problems))
    variables = os.environ if environment is None else environment
    for key, value in _assignments(_from_environment(variables), problems):
        _assign(merged, key, value)
    for key, value in _assignments(overrides, problems):
        _assign(merged, key, value)
    return _checked(merged, problems)


def override(settings: Settings, overrides: Sequence[str]) -> Settings:
    """The same settings but for some, checked as a whole.

    Args:
        settings: Checked settings.
        overrides: `key=value` texts, as for `load_settings`.

    Raises:
        SettingsError: Anything is wrong; the message lists every problem.
    """
    problems: list[str] = []
    merged = settings.model_dump(mode="json")
    for key, value in _assignments(overrides, problems):
        _assign(merged, key, value)
    return _checked(merged, problems)


def validate_section(section: type[Section], values: Mapping[str, Any], *, key: str) -> Section:
    """Build one settings section from values that do not come from a settings file.

    Args:
        section: Class of the section, such as `TrainSettings`.
        values: Values by field name; the others keep their defaults.
        key: Name of the section in messages, such as "baselines.tallrec".

    Raises:
        SettingsError: A value is out of range; the message lists every problem.
    """
    try:
        return section.model_validate(values)
    except pydantic.ValidationError as error:
        problems = [_sentence({**found, "loc": (key, *found["loc"])}) for found in error.errors()]
        raise SettingsError(problems) from None


def _checked(merged: Mapping[str, Any], problems: list[str]) -> Settings:
    try:
        settings = Settings.model_validate(merged)
    except pydantic.ValidationError as cause:
        raise SettingsError(problems + [_sentence(dict(e)) for e in cause.errors()]) from None
    problems += _check_names(settings)
    if problems:
        raise SettingsError(problems)
    return settings


def reference() -> list[tuple[str, str, str, str]]:
    """Every setting as (key, type, default, description): for `--help` and the documentation."""
    rows: list[tuple[str, str, str, str]] = []
    for name, field in Settings.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            rows += [_reference_row(f"{name}.", *f) for f in field.annotation.model_fields.items()]
        else:
            rows.append(_reference_row("", name, field))
    return rows


def _reference_row(prefix: str, name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    annotation = field.annotation
    kind = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    kind = kind.replace("typing.", "").replace("mllm_msr.config.loading.", "")
    default = yaml.safe_dump(_plain(field.default), default_flow_style=True)
    default = default.removesuffix("\n").removesuffix("\n...")
    return prefix + name, kind, default, field.description or ""


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _preset(name: str) -> dict[str, Any]:
    if name not in preset_names():
        close = difflib.get_close_matches(name, preset_names(), n=1)
        raise UnknownNameError(
            needed=f"a preset out of {', '.join(preset_names())}",
            received=repr(name),
            remedy=f"did you mean {close[0]!r}" if close else "choose one of them",
        )
    source = (files("mllm_msr.config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return {**_parsed(source), "preset": name}


def _parsed(text: str) -> Any:
    # A subclass of the safe loader: plain data and nothing else.
    return yaml.load(text, Loader=_Loader)  # noqa: S506


def _yaml_file(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        content = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as cause:
        problems.append(f"the settings file {path} cannot be read ({cause})")
        return {}
    if not isinstance(content, dict):
        problems.append(f"the settings file {path} holds no keys with values")
        return {}
    return content


def _from_environment(variables: Mapping[str, str]) -> Iterable[str]:
    for name in sorted(variables):
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            yield f"{key}={variables[name]}"


def _assignments(texts: Iterable[str], problems: list[str]) -> Iterable[tuple[str, Any]]:
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            problems.append(f"{text!r} is not of the form key=value")
            continue
        try:
            yield key, _parsed(value)
        except yaml.YAMLError:
            problems.append(f"the value of {key} is no YAML: {value!r}")


def _assign(target: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        child = target.get(parent)
        if not isinstance(child, dict):
            child = target[parent] = {}
        target = child
    target[last] = value


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _sentence(error: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"] if not str(part).startswith("literal["))
    if error["type"] == "extra_forbidden":
        known = [row[0] for row in reference()]
        close = difflib.get_close_matches(key, known, n=1)
        hint = f", did you mean {close[0]}" if close else ""
        return f"there is no setting {key}{hint}"
    return f"{key}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _check_names(settings: Settings) -> list[str]:
    problems = _unknown_arguments(
        "datasets", settings.dataset, settings.data.plugin_kwargs(), "data"
    )
    for section, model in [
        ("model", settings.model),
        ("summarize.model", settings.summarize.model),
        ("infer.model", settings.infer.model),
        ("score.model", settings.score.model),
    ]:
        if model is not None:
            problems += _unknown_arguments(
                "backends", model.backend, model.plugin_kwargs(), section
            )
    for name in settings.score.baselines:
        problems += _unknown_arguments("baselines", name, {}, "score.baselines")
    for name, arguments in settings.baselines.plugin_kwargs().items():
        if isinstance(arguments, dict):
            problems += _unknown_arguments("baselines", name, arguments, f"baselines.{name}")
        else:
            hint = f"name an argument, as in baselines.{name}.seed=1"
            problems.append(f"baselines.{name}={arguments!r}: {hint}")
    if settings.item_type is not None and settings.item_type not in ITEM_TYPES:
        problems.append(f"item_type={settings.item_type!r}: choose one of {', '.join(ITEM_TYPES)}")
    too_large = [f for f in settings.data.run_folds or () if f >= settings.data.folds]
    if too_large:
        problems.append(
            f"data.run_folds={too_large}: there are folds 0 to {settings.data.folds - 1}"
        )
    return problems


def _unknown_arguments(
    kind: registry.Kind, name: str, arguments: Mapping[str, Any], section: str
) -> list[str]:
    """Problems with a name of the registry and with the arguments that its class would get."""
    try:
        made = registry.find(kind, name)
    except UnknownNameError as error:
        return [str(error)]
    signature = inspect.signature(made)
    fields = {"datasets": DataSettings.model_fields, "backends": ModelSettings.model_fields}
    known = [*signature.parameters, *fields.get(kind, ())]
    problems = []
    for key in arguments:
        if key not in signature.parameters:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f", did you mean {section}.{close[0]}" if close else ""
            problems.append(f"there is no setting {section}.{key} for {name!r}{hint}")
    problems += _wrong_types(made, arguments, section)
    for key, parameter in signature.parameters.items():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if required and key not in arguments and kind != "baselines":
            problems.append(f"{name!r} needs the setting {section}.{key}")
    return problems


def _wrong_types(made: type, arguments: Mapping[str, Any], section: str) -> list[str]:
    """Arguments that are not of the types that a constructor declares."""
    problems = []
    for key, value in arguments.items():
        try:
            TypeAdapter(_declared(made, key)).validate_python(value)
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"]
            problems.append(f"{section}.{key}={value!r}: {reason[0].lower()}{reason[1:]}")
        except pydantic.errors.PydanticSchemaGenerationError:
            # No type of plain data: the constructor has to see for itself.
            continue
    return problems


def _declared(made: type, key: str) -> Any:
    """The type of a constructor's argument; anything where only type checkers know it."""
    constructor = made.__init__  # type: ignore[misc]
    annotation = getattr(constructor, "__annotations__", {}).get(key, Any)
    alone = type("Alone", (), {"__annotations__": {key: annotation}})
    alone.__module__ = constructor.__module__
    try:
        return get_type_hints(alone)[key]
    except NameError:
        return Any
