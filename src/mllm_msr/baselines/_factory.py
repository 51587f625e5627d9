"""Makes baselines: the class of a name, its arguments, and where it may keep things.

What a baseline keeps can be made again and decides nothing: content vectors, which all models of
a run share under the hash of their content, and training states, from which a killed `fit` goes
on. A constructor that has the argument `content_cache` or `checkpoints` is given a folder; one
that has `places` makes baselines itself and is given the whole.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from mllm_msr import registry
from mllm_msr.interfaces import Recommender

_PLACES: Final = ("content_cache", "checkpoints", "places")


@dataclass(frozen=True, slots=True)
class Places:
    """Folders for what baselines keep; made when there is something to keep.

    Attributes:
        content: Content vectors, under the hash of encoder and content.
        states: Training states of one fold's data; None keeps none.
    """

    content: Path
    states: Path | None = None


def make(name: str, arguments: Mapping[str, Any], *, places: Places | None = None) -> Recommender:
    """A baseline that has not been fitted.

    Equal baselines get the same folder of states, so that a hybrid's part goes on where the same
    model alone was.

    Args:
        name: A name of `registry.names("baselines")`.
        arguments: Arguments of its constructor; they win over `places`.
        places: Where it may keep things; None keeps nothing.

    Raises:
        UnknownNameError: There is no such baseline.
        SettingsError: An argument is out of its range.
    """
    kind = registry.find("baselines", name)
    defaults = {
        key: parameter.default for key, parameter in inspect.signature(kind).parameters.items()
    }
    given: dict[str, Any] = {}
    if places is not None:
        given = {"content_cache": places.content, "places": places}
        if places.states is not None:
            given["checkpoints"] = places.states / f"{name}-{_digest({**defaults, **arguments})}"
    kept = {key: value for key, value in given.items() if key in defaults}
    return cast("Recommender", kind(**{**kept, **arguments}))


def _digest(arguments: Mapping[str, Any]) -> str:
    """A short name for what a baseline is made with."""
    told = {key: value for key, value in arguments.items() if key not in _PLACES}
    text = json.dumps(told, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
