"""Base classes of the sections of the settings, and types of their fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


def _to_list(value: Any) -> Any:
    """Split text at commas, and make a list of one value: "evaluate.ks=5", "data.run_folds=0,1"."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value if value is None or isinstance(value, (list, tuple, dict)) else [value]


def _language(value: str) -> str:
    """Return the name of a language in title case; it becomes part of a prompt."""
    if len(value) > 40 or not re.fullmatch(r"[^\W\d_]+([ -][^\W\d_]+){0,3}", value):
        raise PydanticCustomError("language", "must be the name of a language, such as German.")
    return value.title()


def _without_repetitions(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _require_one(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise PydanticCustomError("empty_list", "must have at least one value.")
    return values


LanguageName = Annotated[str, AfterValidator(_language)]
Value = TypeVar("Value")
# List of distinct values; a single value is a list of one.
Distinct = Annotated[
    tuple[Value, ...], BeforeValidator(_to_list), AfterValidator(_without_repetitions)
]
Names = Distinct[str]
# The same with at least one value.
Some = Annotated[
    tuple[Value, ...],
    BeforeValidator(_to_list),
    AfterValidator(_without_repetitions),
    AfterValidator(_require_one),
]


class Section(BaseModel):
    """Section of the settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OpenSection(BaseModel):
    """Section whose additional keys are constructor arguments of a plugin."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def plugin_kwargs(self) -> dict[str, Any]:
        """Return the keys that are not fields of this section."""
        return dict(self.model_extra or {})
