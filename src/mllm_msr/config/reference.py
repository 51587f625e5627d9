"""Reference of all settings, for command help, the documentation and suggestions in errors."""

from __future__ import annotations

import functools
import inspect
import operator
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

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
            default = list(value.default) if isinstance(value.default, tuple) else value.default
            if values is not None and not value.exclude:  # values that are not shown
                default = functools.reduce(operator.getitem, key.split("."), values)
            text = yaml.safe_dump(default, default_flow_style=True)
            text = text.removesuffix("\n").removesuffix("\n...")
            rows.append(
                SettingReference(key, _type_name(value.annotation), text, value.description or "")
            )
    return rows


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
