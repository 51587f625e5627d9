"""YAML as a source of settings: plain data without shared values, limited in size."""

from __future__ import annotations

import functools
import re
from importlib.resources.abc import Traversable
from typing import Any, Final

import yaml

# More than any settings need; a file with YAML anchors can grow exponentially.
_MAX_VALUES: Final = 100_000
_MAX_DEPTH: Final = 50


class _Loader(yaml.SafeLoader):
    """YAML loader that reads 1e-3 as a number; YAML 1.1 requires 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d[\d_]*(?:\.\d*)?[eE][-+]?\d+"),
    list("-+0123456789"),
)


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text, in which no two values are the same object.

    Values that share an anchor would otherwise change together.

    Raises:
        YAMLError: The text is not valid, or has more values than settings can have.
    """
    content = _load(text)
    n_values = 0

    def copied(value: Any, depth: int) -> Any:
        nonlocal n_values
        n_values += 1
        if n_values > _MAX_VALUES or depth > _MAX_DEPTH:
            raise yaml.YAMLError("it contains itself or too many values")
        if isinstance(value, dict):
            return {key: copied(each, depth + 1) for key, each in value.items()}
        return [copied(each, depth + 1) for each in value] if isinstance(value, list) else value

    return copied(content, 0)


@functools.lru_cache(maxsize=128)
def _load(text: str) -> Any:
    """Return the content of a YAML text, which callers must not change.

    Each stage of a run reads the same settings file, which takes PyYAML ten milliseconds or more.
    """
    # A subclass of the safe loader: it only creates plain data.
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def yaml_names(folder: Traversable) -> list[str]:
    """Return the names of the YAML files in a folder without their ending, sorted."""
    names = (path.name for path in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))
