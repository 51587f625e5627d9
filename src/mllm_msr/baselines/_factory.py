"""Construction of baselines by name, with folders for their caches.

Baselines cache content vectors, which all models of a run share, and training states, from which a
killed `fit` resumes. A constructor with the argument `content_cache` or `checkpoints` gets the
folder.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_msr import registry
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import Recommender


@dataclass(frozen=True, slots=True)
class Folders:
    """Cache folders of baselines, created on first use.

    Attributes:
        content: Content vectors, each under the hash of its encoder and its content.
        states: Training states of one fold's data; None stores none.
    """

    content: Path
    states: Path | None = None


def baseline_class(name: str) -> type[Recommender]:
    """Return the class of a baseline.

    Raises:
        UnknownNameError: There is no such baseline.
    """
    return registry.find_baseline(name)


def make(name: str, arguments: Mapping[str, Any], *, folders: Folders | None = None) -> Recommender:
    """Construct an unfitted baseline.

    Args:
        name: A name of `registry.names("baselines")`.
        arguments: Constructor arguments; they take precedence over `folders`.
        folders: Cache folders; None disables caching.

    Raises:
        UnknownNameError: There is no such baseline.
        SettingsError: An argument is out of range.
    """
    kind = baseline_class(name)
    accepted = inspect.signature(kind).parameters
    stores: dict[str, Any] = {}
    if folders is not None:
        stores["content_cache"] = folders.content
        if folders.states is not None:
            # Named by a hash of all arguments, so that other settings never resume these states.
            defaults = {key: parameter.default for key, parameter in accepted.items()}
            text = json.dumps({**defaults, **arguments}, sort_keys=True, default=repr)
            digest = hashlib.sha256(text.encode()).hexdigest()[:12]
            stores["checkpoints"] = folders.states / f"{name}-{digest}"
    given = {key: value for key, value in stores.items() if key in accepted}
    try:
        return kind(**{**given, **arguments})
    except SettingsError as error:
        # Constructors name their argument only.
        section = f"baselines.{name}."
        raise SettingsError(
            [
                f"{section}{problem}" if problem.split(" ")[0] in accepted else problem
                for problem in error.problems
            ]
        ) from None


def member_names(name: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the members of an ensemble; empty for other baselines.

    Args:
        name: Name of the baseline.
        arguments: Its arguments, of which `members` takes precedence over the default.

    Raises:
        UnknownNameError: There is no such baseline.
        SettingsError: The ensemble is a member of itself.
    """
    defaults: Sequence[str] | None = getattr(baseline_class(name), "default_members", None)
    if defaults is None:
        return ()
    members = tuple(arguments.get("members") or defaults)
    if name in members:
        problem = f"baselines.{name}.members must not contain {name!r}, but is {list(members)}."
        raise SettingsError([problem])
    return members
