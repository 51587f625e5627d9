"""Options that disable Lightning's terminal output and files, for the ranker and the baselines."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Arguments of `lightning.Trainer`. Validation, logging, checkpoints and the order of the data are
# implemented in this package.
QUIET_TRAINER: Final = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's messages about devices and data loader processes."""
    importlib.import_module("lightning.pytorch")  # takes seconds, and sets the levels
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
