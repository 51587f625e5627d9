"""Checks of the arguments of plugin constructors against their declared types.

The annotations of a constructor declare types and ranges (`batch_size: PositiveInt`), as the fields
of a settings section do. Values come from YAML, so they are checked strictly, as JSON: "8" is not
an integer, but a text is a path. Baselines also check their arguments against each other when they
are constructed, which costs nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import Any, Final, get_type_hints

import pydantic
from pydantic import ConfigDict, TypeAdapter

from mllm_msr import registry
from mllm_msr.config.problems import did_you_mean, rule
from mllm_msr.config.settings import DataSettings, ModelSettings
from mllm_msr.errors import MissingExtraError, SettingsError, UnknownNameError

_STRICT: Final = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
_MAX_SHOWN: Final = 100
# Larger integers are mistakes, and overflow in libraries.
_MAX_INTEGER: Final = 10**15


def argument_problems(
    kind: registry.Kind, name: str, arguments: Mapping[str, Any], section: str
) -> list[str]:
    """Return one sentence for each problem with a plugin's name or its arguments.

    Args:
        kind: Kind of the plugin.
        name: Its name.
        arguments: Constructor arguments from the settings.
        section: The settings that the arguments belong to ("model").
    """
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
            hint = _owners(kind, key, section) or did_you_mean(full, known)
            problems.append(f"Unknown setting {full!r} of the {label}.{hint}")
        elif key == "backend" and str(value) not in registry.names("backends"):
            unknown = registry.unknown_name_error("backend", str(value), registry.names("backends"))
            problems.append(f"{full}={value!r}: {unknown}")
        elif problem := _value_problem(declared_type(plugin, key), value):
            problems.append(f"{full}={f'{value!r}'[:_MAX_SHOWN]}: {problem}")
    for key, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if required and key not in arguments and kind != "baselines":
            problems.append(f"The {label} requires the setting {section + '.' + key!r}.")
    if kind == "baselines" and arguments and not problems:
        problems += _constructor_problems(plugin, arguments, section)
    return problems


def _owners(kind: registry.Kind, argument: str, section: str) -> str:
    """Return a sentence about other plugins that take an argument; empty if there are none."""
    if kind == "baselines":
        return ""  # each has a section of its own
    owners = []
    for name in registry.names(kind):
        with contextlib.suppress(ImportError, MissingExtraError):  # it is not installed completely
            if argument in inspect.signature(registry.find(kind, name)).parameters:
                owners.append(name)
    if not owners:
        return ""
    setting = "dataset" if kind == "datasets" else f"{section.removesuffix('.options')}.backend"
    return f" It belongs to {', '.join(owners)}. Select one of them with {setting}=NAME."


def _value_problem(declared: Any, value: Any) -> str | None:
    """Return the rule that a value violates, or None."""
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        return f"must be at most {_MAX_INTEGER}."
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(declared, config=_STRICT)
    except pydantic.errors.PydanticUserError:
        adapter = TypeAdapter(declared)  # types with a configuration of their own
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = None  # an object that Python code passes
    try:
        if text is None:
            adapter.validate_python(value)
        else:
            adapter.validate_json(text)
    except pydantic.ValidationError as error:
        return rule(detail["msg"] for detail in error.errors())
    return None


def _constructor_problems(plugin: type, arguments: Mapping[str, Any], section: str) -> list[str]:
    """Return the problems that a baseline finds with its arguments, naming the settings.

    The members of an ensemble are not constructed: their own sections are checked, and some of them
    are models of the run, whose names are known only there.
    """
    parameters = inspect.signature(plugin).parameters
    is_ensemble = hasattr(plugin, "default_members")
    checked = {key: arguments[key] for key in arguments if not (is_ensemble and key == "members")}
    try:
        plugin(**checked)
    except SettingsError as error:
        return [
            f"{section}.{problem}" if problem.split(" ")[0] in parameters else problem
            for problem in error.problems
        ]
    except UnknownNameError as error:
        return [f"{section}: {error}"]
    options = arguments.get("options")
    if "backend" in parameters and isinstance(options, Mapping):
        name = str(arguments.get("backend", parameters["backend"].default))
        return argument_problems("backends", name, options, f"{section}.options")
    return []


def declared_type(plugin: type, argument: str) -> Any:
    """Return the declared type of a constructor's argument, or Any if it cannot be resolved."""
    constructor: Any = plugin.__init__  # type: ignore[misc]
    owner: Any = constructor
    if dataclasses.is_dataclass(plugin):
        # A generated constructor has the annotations of the class that declares the field.
        owner = next(kind for kind in plugin.__mro__ if argument in _annotations(kind))
    # Resolve only this annotation; others may use names that are imported for type checkers only.
    declared = _annotations(owner).get(argument, Any)
    holder = type("Holder", (), {"__annotations__": {argument: declared}})
    holder.__module__ = owner.__module__
    try:
        return get_type_hints(holder, include_extras=True)[argument]
    except NameError:
        return Any


def _annotations(owner: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = vars(owner).get("__annotations__", {})
    return found or getattr(owner, "__annotations__", {})
