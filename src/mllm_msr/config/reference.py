"""Reference of all settings, for command help, the documentation and suggestions in errors."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import re
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from mllm_msr import registry
from mllm_msr.config.settings import Settings

# Group of the settings without a section, such as `dataset`.
GENERAL: Final = "general"


class SettingReference(NamedTuple):
    """One setting, as `--help` and the documentation show it.

    Attributes:
        key: Full name ("train.rank").
        type: Type as text ("int | null").
        default: Default value as YAML, or the value of the settings that are listed.
        description: Meaning of the setting.
    """

    key: str
    type: str
    default: str
    description: str


def reference(settings: Settings | None = None) -> list[SettingReference]:
    """Return every setting, in the order of `config/settings.py`.

    Args:
        settings: Settings whose values are listed; None lists the defaults.
    """
    rows: list[SettingReference] = []
    values = None if settings is None else settings.model_dump(mode="json")
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if inspect.isclass(section) and issubclass(section, BaseModel):
            fields = {f"{name}.{key}": value for key, value in section.model_fields.items()}
        else:
            fields = {name: field}
        for key, value in fields.items():
            default = value.default
            if values is not None and not value.exclude:  # values that are not shown
                default = functools.reduce(operator.getitem, key.split("."), values)
            type_name = _type_name(value.annotation)
            rows.append(
                SettingReference(key, type_name, _as_yaml(default), value.description or "")
            )
    return rows


def plugin_reference(kind: registry.Kind, name: str) -> list[SettingReference]:
    """Return the arguments of a plugin, which are settings too, in the order of its constructor.

    Args:
        kind: "datasets", "backends" or "baselines".
        name: Name of the plugin.

    Raises:
        UnknownNameError: No plugin of this kind has the name.
        MissingExtraError: The plugin needs an extra that is not installed.
    """
    plugin = registry.find(kind, name)
    section = {"datasets": "data", "backends": "model"}.get(kind, f"{kind}.{name}")
    meanings: dict[str, str] = {}
    for base in reversed(plugin.__mro__):
        meanings |= _documented(inspect.cleandoc(vars(base).get("__doc__") or ""))
    return [
        SettingReference(
            f"{section}.{key}",
            str(parameter.annotation).replace("None", "null"),
            "required" if parameter.default is parameter.empty else _as_yaml(parameter.default),
            meanings.get(key, ""),
        )
        for key, parameter in inspect.signature(plugin).parameters.items()
    ]


def _documented(docstring: str) -> dict[str, str]:
    """Return the descriptions of arguments and attributes in a docstring, with null for None."""
    found: dict[str, str] = {}
    for section in re.findall(
        r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE
    ):
        for entry in re.findall(r"^    (\w.*(?:\n {5,}.*)*)", section, re.MULTILINE):
            names, _, text = entry.partition(":")
            text = re.sub(r"`?\bNone\b`?", "null", " ".join(text.split()))
            found |= dict.fromkeys(re.split(r",\s*", names), text)
    return found


def _as_yaml(value: Any) -> str:
    """Return a value as YAML in one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def groups() -> dict[str, str]:
    """Return the groups of settings and their meaning, in the order of `config/settings.py`.

    Settings without a section are in the group `GENERAL`.
    """
    found = {GENERAL: "Preset, dataset and name of the items."}
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if inspect.isclass(section) and issubclass(section, BaseModel):
            found[name] = (inspect.getdoc(section) or "").partition("\n")[0]
    return found


def _type_name(annotation: Any) -> str:
    """Return a type as text: "int | null", "list[str]", "lora | full"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " | ".join(_type_name(argument) for argument in arguments)
    if origin is tuple:
        return f"list[{_type_name(arguments[0])}]"
    return "null" if annotation is NoneType else str(annotation.__name__)
