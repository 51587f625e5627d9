"""The paper's tables and figures, one module each, run with `mllm-msr experiment NAME`.

`_experiment.py` defines the structure of an experiment, `_runner.py` runs it over seeds, and
`_results.py` writes its results with the figures of `_figures.py`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from mllm_msr import registry

if TYPE_CHECKING:
    from mllm_msr.experiments._experiment import Experiment


def names() -> list[str]:
    """Return the names of all experiments, in alphabetical order, without importing them."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if not name.startswith("_"))


def find(name: str) -> Experiment:
    """Return an experiment by name.

    Raises:
        UnknownNameError: The experiment does not exist. The message lists all names.
        TypeError: The experiment's module does not define `EXPERIMENT`.
    """
    if name not in names():
        raise registry.unknown_name_error("experiment", name, names())
    module = importlib.import_module(f"mllm_msr.experiments.{name}")
    experiment: Experiment | None = getattr(module, "EXPERIMENT", None)
    if experiment is None:
        raise TypeError(
            f"{module.__name__} must define EXPERIMENT, an Experiment, but it does not. Add it, or "
            "begin the file's name with an underscore if it is not an experiment."
        )
    return experiment
