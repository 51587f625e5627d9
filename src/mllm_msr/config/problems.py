"""Sentences about settings that do not match the schema, from the errors of pydantic."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import pydantic
from pydantic import BaseModel

# Settings whose value may contain a password.
_SECRET: Final = frozenset({"serve.state"})


def displayed(key: str, value: object) -> str:
    """Return the value of a setting for messages, "***" if it may contain a password."""
    if key in _SECRET:
        return "***"
    # As users write them in YAML.
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def describe_errors(
    error: pydantic.ValidationError, schema: type[BaseModel], prefix: str, known: Sequence[str]
) -> Iterable[str]:
    """Yield one sentence for each setting that does not match the schema.

    Args:
        error: Result of the validation.
        schema: The class that was validated.
        prefix: Prefix of its field names in messages ("train.").
        known: Full names of all settings, for suggestions.
    """
    messages: dict[tuple[str, str], list[str]] = {}
    for detail in error.errors():
        key = prefix + _setting_name(schema, detail["loc"])
        if detail["type"] == "extra_forbidden":
            yield f"Unknown setting {key!r}.{did_you_mean(key, known)}"
        else:
            # A value that matches no member of a union has one error for each member.
            messages.setdefault((key, displayed(key, detail["input"])), []).append(detail["msg"])
    for (key, value), alternatives in messages.items():
        yield f"{key}={value}: {rule(alternatives)}"


def _setting_name(schema: type[BaseModel], location: Sequence[str | int]) -> str:
    """Return the setting at a location in the schema, without list indices and union members."""
    kinds: list[Any] = [schema]
    names: list[str] = []
    for part in location:
        if not kinds or part == "[key]":  # pydantic's mark of an invalid key
            break
        container = kinds[0]
        if get_origin(container) is dict:
            kinds = list(_containers(get_args(container)[1]))
        else:
            field = container.model_fields.get(str(part))
            kinds = [] if field is None else list(_containers(field.annotation))
        names.append(str(part))
    return ".".join(names)


def _containers(annotation: Any) -> Iterator[Any]:
    """Yield the sections and the mappings among the members of a type."""
    is_section = inspect.isclass(annotation) and issubclass(annotation, BaseModel)
    if is_section or get_origin(annotation) is dict:
        yield annotation
    elif get_origin(annotation) in {Annotated, Union, UnionType}:
        for member in get_args(annotation):
            yield from _containers(member)


def rule(messages: Iterable[str]) -> str:
    """Return the rule that a value violates, from pydantic's messages ("must be greater than 0.").

    Args:
        messages: One message, or one for each member of a union.
    """
    start, choices = "Input should be ", []
    for message in messages:
        text = re.sub("^Input is not a valid path.*", f"{start}a path", message)
        text = text.replace("String should match pattern", f"{start}a text that matches")
        if not text.startswith(start):
            return text  # from a validator in `config/settings.py`
        choice = re.split(r", (?:unable|got)", text.removeprefix(start))[0]
        choice = re.sub("a valid dictionary.*", "a mapping", choice)
        choice = choice.replace("a valid tuple", "a list").replace("a valid integer", "an integer")
        choices.append(choice.replace("a valid ", "a "))
    return f"must be {' or '.join(dict.fromkeys(choices))}."


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a suggestion of the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
