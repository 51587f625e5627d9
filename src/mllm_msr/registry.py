"""From a name that users type to the class in the file of that name.

"sasrec" is `baselines/sasrec.py`. Listing names reads file names and entry points; nothing is
imported until one name is asked for. Files whose name starts with an underscore are not listed.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from importlib.metadata import entry_points
from typing import Final, Literal

import mllm_msr
from mllm_msr.errors import UnknownNameError
from mllm_msr.interfaces import Backend, Dataset, Recommender

Kind = Literal["datasets", "backends", "baselines"]

_BASES: Final[dict[Kind, type]] = {
    "datasets": Dataset,
    "backends": Backend,
    "baselines": Recommender,
}


def names(kind: Kind) -> list[str]:
    """All names of a kind, in alphabetical order: this package's files and entry points."""
    folders = [f"{root}/{kind}" for root in mllm_msr.__path__]
    built_in = {
        module.name for module in pkgutil.iter_modules(folders) if not module.name.startswith("_")
    }
    external = {point.name for point in entry_points(group=f"mllm_msr.{kind}")}
    return sorted(built_in | external)


def find(kind: Kind, name: str) -> type:
    """The class behind a name.

    Args:
        kind: "datasets", "backends" or "baselines".
        name: A name that `names(kind)` lists.

    Raises:
        UnknownNameError: There is no such name; the message lists the known ones.
    """
    known = names(kind)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}" if close else f"choose one of {', '.join(known)}"
        raise UnknownNameError(
            needed=f"one of the {len(known)} {kind} that exist", received=repr(name), remedy=hint
        )
    for point in entry_points(group=f"mllm_msr.{kind}"):
        if point.name == name:
            external: type = point.load()
            return external
    module = importlib.import_module(f"mllm_msr.{kind}.{name}")
    base = _BASES[kind]
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
            f"{module.__name__} must hold exactly one {base.__name__}, it holds {len(found)}"
        )
    return found[0]
