"""Lookup of datasets, backends and baselines by the names that users type.

The name of a built-in plugin is the name of its module: "sasrec" is the one `Recommender` in
`baselines/sasrec.py`. Other packages add plugins with the entry points `mllm_msr.datasets`,
`mllm_msr.backends` and `mllm_msr.baselines`. `names` reads file names and entry points and imports
nothing; `find` imports only the plugin that is asked for. Modules whose names begin with an
underscore are not plugins.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from mllm_msr.errors import UnknownNameError
from mllm_msr.interfaces import Backend, Dataset, Recommender

Kind = Literal["datasets", "backends", "baselines"]

# For each kind: what one plugin of it is called in messages, and its base class.
_KINDS: Final = MappingProxyType(
    {
        "datasets": ("dataset", Dataset),
        "backends": ("backend", Backend),
        "baselines": ("baseline", Recommender),
    }
)


def names(kind: Kind) -> list[str]:
    """Return the names of all plugins of a kind, in alphabetical order."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent / kind)])
    built_in = {module.name for module in modules if not module.name.startswith("_")}
    external = {point.name for point in entry_points(group=f"mllm_msr.{kind}")}
    return sorted(built_in | external)


def find(kind: Kind, name: str) -> type:
    """Import a plugin and return its class.

    Args:
        kind: "datasets", "backends" or "baselines".
        name: One of `names(kind)`.

    Returns:
        A subclass of `Dataset`, `Backend` or `Recommender`.

    Raises:
        UnknownNameError: No plugin of this kind has the name. The message lists all names.
        TypeError: The plugin's module does not define exactly one class of its kind.
    """
    label, base = _KINDS[kind]
    known = names(kind)
    if name not in known:
        raise unknown_name_error(label, name, known)
    for point in entry_points(group=f"mllm_msr.{kind}"):
        if point.name == name:
            external: type = point.load()
            return external
    module = importlib.import_module(f"mllm_msr.{kind}.{name}")
    found = [
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, base)
        and member is not base
        and member.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(
            f"{module.__name__} must define exactly one subclass of {base.__name__}, but it "
            f"defines {len(found)}."
        )
    return found[0]


def unknown_name_error(label: str, name: str, known: Sequence[str]) -> UnknownNameError:
    """Return the error for a name that does not exist, with the closest name and all names.

    Args:
        label: What the name should be the name of, in the singular ("dataset").
        name: The unknown name.
        known: The names that exist, in the order in which the message lists them.
    """
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UnknownNameError(f"Unknown {label} {name!r}.{hint} Available: {', '.join(known)}.")
