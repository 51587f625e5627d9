"""The paper's tables and figures, one file each; a file's name is the name users type.

`_common.py` says what an experiment is, `_running.py` runs it over seeds, `_results.py` writes it.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING

from mllm_msr.errors import UnknownNameError

if TYPE_CHECKING:
    from mllm_msr.experiments._common import Experiment


def names() -> list[str]:
    """All experiments, in alphabetical order; nothing is imported for it."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if not name.startswith("_"))


def find(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        UnknownNameError: There is none; the message lists the known ones.
    """
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        raise UnknownNameError(
            needed=f"an experiment out of {', '.join(names())}",
            received=repr(name),
            remedy=f"did you mean {close[0]!r}" if close else "choose one of them",
        )
    found: Experiment = importlib.import_module(f"mllm_msr.experiments.{name}").EXPERIMENT
    return found
