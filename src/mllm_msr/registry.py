"""Lookup of datasets, backends, baselines and metrics by the names that users type.

The name of a built-in plugin is the name of its module: "sasrec" is the one `Recommender` in
`baselines/sasrec.py`. Other packages add plugins with the entry points `mllm_msr.datasets`,
`mllm_msr.backends`, `mllm_msr.baselines` and `mllm_msr.metrics`. `names` reads file names and entry
points and imports nothing; `find` imports only the plugin that is asked for. Modules whose names
begin with an underscore are not plugins.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, cast

from mllm_msr.errors import UnknownNameError, convert_missing_extras

if TYPE_CHECKING:  # The interfaces import Polars, which names and completions do not need.
    from mllm_msr.interfaces import Backend, Dataset, Recommender

Kind = Literal["datasets", "backends", "baselines", "metrics"]


@dataclass(frozen=True, slots=True)
class _Plugins:
    """One kind of plugin.

    Attributes:
        label: What one plugin is called in messages.
        package: Package whose modules are the built-in plugins, relative to this one.
        base: Module and name of the base class, relative to this package. The class is imported
            on demand, because some of the packages are in layers above this module.
    """

    label: str
    package: str
    base: tuple[str, str]


_KINDS: Final = MappingProxyType(
    {
        "datasets": _Plugins("dataset", "datasets", ("interfaces", "Dataset")),
        "backends": _Plugins("backend", "backends", ("interfaces", "Backend")),
        "baselines": _Plugins("baseline", "baselines", ("interfaces", "Recommender")),
        "metrics": _Plugins("metric", "evaluation.metrics", ("evaluation.metrics._base", "Metric")),
    }
)


def names(kind: Kind) -> list[str]:
    """Return the names of all plugins of a kind, in alphabetical order."""
    external = {point.name for point in _external_plugins(kind)}
    return sorted(_built_in_names(kind) | external)


@functools.cache
def _built_in_names(kind: Kind) -> frozenset[str]:
    folder = Path(__file__).parent.joinpath(*_KINDS[kind].package.split("."))
    modules = pkgutil.iter_modules([str(folder)])
    return frozenset(module.name for module in modules if not module.name.startswith("_"))


def find(kind: Kind, name: str) -> type:
    """Import a plugin and return its class.

    Args:
        kind: "datasets", "backends", "baselines" or "metrics".
        name: One of `names(kind)`.

    Returns:
        A subclass of `Dataset`, `Backend`, `Recommender` or `Metric`.

    Raises:
        UnknownNameError: No plugin of this kind has the name. The message lists all names.
        MissingExtraError: The plugin needs an extra that is not installed.
        TypeError: The plugin's module does not define exactly one class of its kind.
    """
    plugins, known = _KINDS[kind], names(kind)
    if name not in known:
        raise unknown_name_error(plugins.label, name, known)
    for point in _external_plugins(kind):
        if point.name == name:
            external: type = point.load()
            return external
    base_module, base_name = plugins.base
    base: type = getattr(importlib.import_module(f"mllm_msr.{base_module}"), base_name)
    with convert_missing_extras():
        module = importlib.import_module(f"mllm_msr.{plugins.package}.{name}")
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


def find_dataset(name: str) -> type[Dataset]:
    """Return the class of a dataset; errors are those of `find`."""
    return cast("type[Dataset]", find("datasets", name))


def find_backend(name: str) -> type[Backend]:
    """Return the class of a backend; errors are those of `find`."""
    return cast("type[Backend]", find("backends", name))


def find_baseline(name: str) -> type[Recommender]:
    """Return the class of a baseline; errors are those of `find`."""
    return cast("type[Recommender]", find("baselines", name))


def describe(kind: Kind, name: str) -> str:
    """Return what a plugin is, in one line, without importing built-in plugins.

    Args:
        kind: "datasets", "backends", "baselines" or "metrics".
        name: One of `names(kind)`.

    Returns:
        First line of the docstring of the plugin's module, or of the class for plugins of other
        packages; empty without one.
    """
    path = Path(__file__).parent.joinpath(*_KINDS[kind].package.split("."), f"{name}.py")
    external = any(point.name == name for point in _external_plugins(kind))
    if external or not path.is_file():
        text = inspect.getdoc(find(kind, name))
    else:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return (text or "").partition("\n")[0]


def _external_plugins(kind: Kind) -> tuple[EntryPoint, ...]:
    """Return the entry points of a kind; packages are only scanned again after an installation."""
    folders = tuple((folder, _modified_at(folder)) for folder in sys.path)
    return _scan(entry_points, f"mllm_msr.{kind}", folders)


@functools.lru_cache(maxsize=16)
def _scan(
    scan: Callable[..., Iterable[EntryPoint]], group: str, folders: tuple[tuple[str, int], ...]
) -> tuple[EntryPoint, ...]:
    """Read the entry points of all packages in folders, whose times are a part of the cache key."""
    del folders
    return tuple(scan(group=group))


def _modified_at(folder: str) -> int:
    """Return when an entry was last added to or removed from a folder, in nanoseconds."""
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0


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
