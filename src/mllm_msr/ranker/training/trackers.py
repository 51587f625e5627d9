"""Trackers of metrics by name, as loggers of Lightning: for training and for finished stages.

All processes that work in one run folder write to the same run of a tracker: its id is kept in
`tracking/runs.json`. Addresses and keys of trackers come from their own environment variables, such
as `MLFLOW_TRACKING_URI`, `WANDB_API_KEY` and `WANDB_MODE`.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from mllm_msr.config.train_settings import TrackerName
from mllm_msr.errors import UsageError, require_extra
from mllm_msr.storage import layout
from mllm_msr.storage.atomic import write_text

_PROJECT: Final = "mllm-msr"
_RUNS: Final = "runs.json"
_MLFLOW_URI: Final = "MLFLOW_TRACKING_URI"
# Extra of each tracker.
_EXTRAS: Final[Mapping[TrackerName, str]] = MappingProxyType(
    {
        "tensorboard": "train",
        "csv": "train",
        "wandb": "wandb",
        "mlflow": "mlflow",
        "trackio": "trackio",
    }
)


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Check that trackers can be used: their packages, and the server of MLflow.

    Raises:
        MissingExtraError: A package is not installed; the message has the command for pip.
        UsageError: The environment names no server of MLflow.
    """
    for name in names:
        for extra in ("train", _EXTRAS[name]):
            require_extra(extra)
    if "mlflow" in names and not os.environ.get(_MLFLOW_URI):
        raise UsageError(
            f"The tracker mlflow needs {_MLFLOW_URI}. Set it to the address of the server, such as "
            "http://127.0.0.1:5000, or to a database, such as sqlite:///mlflow.db."
        )


def make_trackers(names: Sequence[TrackerName], folder: Path, *, run: str) -> list[Any]:
    """Return the loggers of trackers.

    Args:
        names: Names of the trackers.
        folder: Run folder, or the folder of a fold; files of the trackers are in `tracking/`.
        run: Name of the run in the trackers.

    Raises:
        MissingExtraError: A package is not installed.
        UsageError: The environment names no server of MLflow.
    """
    require_trackers(names)
    if not names:
        return []
    own = folder / layout.TRACKING
    file = own / _RUNS
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    loggers = [_FACTORIES[name](own, run, known.get(name)) for name in names]
    ids = {name: _id_of(name, logger) for name, logger in zip(names, loggers, strict=True)}
    ids = {name: value for name, value in ids.items() if value}
    if ids.items() - known.items():
        write_text(file, json.dumps({**known, **ids}) + "\n")
    return loggers


def _id_of(name: TrackerName, logger: Any) -> str | None:
    """Return the id with which another process continues the run of a tracker."""
    if name == "mlflow":
        return str(logger.run_id) if logger.run_id else None  # assigned by the server
    return str(logger.version) if name == "wandb" else None


def _tensorboard(folder: Path, run: str, run_id: str | None) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger  # noqa: PLC0415 - takes seconds

    del run, run_id
    return TensorBoardLogger(folder, name="tensorboard", version="")


def _csv(folder: Path, run: str, run_id: str | None) -> Any:
    from lightning.pytorch.loggers import CSVLogger  # noqa: PLC0415 - takes seconds

    del run, run_id
    return CSVLogger(folder, name="csv")  # each process and stage has its own version


def _wandb(folder: Path, run: str, run_id: str | None) -> Any:
    from lightning.pytorch.loggers import WandbLogger  # noqa: PLC0415 - takes seconds

    folder.mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        run,
        save_dir=folder,
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
        id=run_id or uuid.uuid4().hex[:8],
        resume="allow",
    )


def _mlflow(folder: Path, run: str, run_id: str | None) -> Any:
    from lightning.pytorch.loggers import MLFlowLogger  # noqa: PLC0415 - takes seconds

    del folder
    return MLFlowLogger(
        os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        run_name=run,
        tracking_uri=os.environ[_MLFLOW_URI],
        run_id=run_id,
    )


def _trackio(folder: Path, run: str, run_id: str | None) -> Any:
    from mllm_msr.ranker.training.trackio_logger import TrackioLogger  # noqa: PLC0415 - Lightning

    del folder, run_id  # a run of trackio is continued by its name
    return TrackioLogger(project=_PROJECT, run=run)


_FACTORIES: Final[Mapping[TrackerName, Callable[[Path, str, str | None], Any]]] = MappingProxyType(
    {
        "tensorboard": _tensorboard,
        "csv": _csv,
        "wandb": _wandb,
        "mlflow": _mlflow,
        "trackio": _trackio,
    }
)
