"""Logger of Lightning for trackio, which Lightning does not have."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any, final

import trackio
from lightning.pytorch.loggers import Logger


@final
class TrackioLogger(Logger):  # type: ignore[misc]
    """Logger that writes to a project of trackio; it is only called in the process of rank 0.

    trackio prints messages, which go to stderr: the standard output is for results.

    Args:
        project: Name of the project.
        run: Name of the run; a run of this name is continued.
    """

    def __init__(self, *, project: str, run: str) -> None:
        super().__init__()
        self._project = project
        self._name = run
        self._started = False

    @property
    def name(self) -> str:
        """Return the name of the project."""
        return self._project

    @property
    def version(self) -> str:
        """Return the name of the run."""
        return self._name

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write values of a step."""
        self._start()
        with redirect_stdout(sys.stderr):
            trackio.log(dict(metrics), step=step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Write settings, as the configuration of the run."""
        self._start(vars(params) if isinstance(params, Namespace) else dict(params))

    def finalize(self, status: str) -> None:
        """Finish the run."""
        del status
        if self._started:
            with redirect_stdout(sys.stderr):
                trackio.finish()
            self._started = False

    def _start(self, config: dict[str, Any] | None = None) -> None:
        if not self._started:
            with redirect_stdout(sys.stderr):
                trackio.init(project=self._project, name=self._name, config=config, resume="allow")
            self._started = True
