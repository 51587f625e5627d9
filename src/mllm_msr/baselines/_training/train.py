"""Training of the baselines' networks.

A baseline provides a network, its batches, a loss and, if there are validation users, a validation
metric. This module provides what must be the same for all baselines: early stopping and weight
selection on validation users only, bfloat16 products if the processor supports them, seeds, a time
limit, a check for NaN, and exact resumption after a crash.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor

from mllm_msr.baselines._training.options import (
    TIME_LIMIT,
    B,
    LoopOptions,
    Validate,
    changed_fields,
)
from mllm_msr.errors import MissingExtraError
from mllm_msr.ranker.training.checkpoint import Progress, load_matching
from mllm_msr.ranker.training.display import TrainingProgress, hide_progress
from mllm_msr.ranker.training.lightning_output import QUIET_TRAINER, quiet_lightning

_LIGHTNING_PRECISION: Final = {"bf16": "bf16-mixed", "fp32": "32-true"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """Result of a training run.

    Attributes:
        epochs: Epochs done.
        best_epoch: Epoch whose weights are kept, counted from 1.
        best_value: Validation metric of that epoch, `None` without validation.
        seconds: Time in the training loop, including validation, over all interrupted and resumed
            processes.
        stopped_because: Why training ended, as a phrase.
    """

    epochs: int
    best_epoch: int
    best_value: float | None
    seconds: float
    stopped_because: str

    @property
    def is_time_limited(self) -> bool:
        """Return whether the time limit ended training."""
        return self.stopped_because.startswith(TIME_LIMIT)

    def write(self) -> None:
        """Write the log to the logger of this module, with a warning about a time limit."""
        best = "" if self.best_value is None else f" with validation value {self.best_value:.3f}"
        logger.info(
            "Trained %d epochs in %.1f s: %s; kept epoch %d%s.",
            self.epochs,
            self.seconds,
            self.stopped_because,
            self.best_epoch,
            best,
        )
        if self.is_time_limited:
            logger.warning(
                "Training stopped after %d epochs at its %s (max_minutes), so its result depends "
                "on the speed of the machine.",
                self.epochs,
                self.stopped_because,
            )

    @classmethod
    def from_progress(cls, progress: Progress) -> Self:
        """Return the log of a run that has ended."""
        return cls(
            epochs=progress.step,
            best_epoch=progress.step if progress.best is None else progress.best_step,
            best_value=progress.best,
            seconds=progress.seconds,
            stopped_because=progress.stopped_because,
        )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch within the block and restore its generators afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def train(
    network: torch.nn.Module,
    epoch_batches: Callable[[int], Sequence[B]],
    *,
    loss: Callable[[B], Tensor],
    validate: Validate | None,
    options: LoopOptions,
    folder: Path | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    show: TrainingProgress = hide_progress,
) -> TrainingLog:
    """Train a network in place and load the weights with the best validation metric.

    Args:
        network: Network to train; afterwards on the CPU and in evaluation mode.
        epoch_batches: Returns the batches of an epoch, counted from 0; depends only on the epoch.
            Batches are tensors or have a method `to` like them.
        loss: Returns the mean loss of a batch; called in training mode and under autocast.
        validate: Returns the metric on validation users, higher is better; called in evaluation
            mode, without gradients and in float32. `None` keeps the last weights.
        options: Options of the training loop.
        folder: Folder for a state after each epoch; a killed run with the same folder resumes
            from it. `None` saves nothing.
        fingerprint: Further settings and data hashes that the weights depend on, as JSON values.
        show: Shows the epochs that are done; early stopping may end training before the last one.

    Raises:
        MissingExtraError: Lightning is not installed.
        StaleStageError: The state in the folder has other options or another fingerprint.
        NonFiniteLossError: The loss became NaN or infinite; the last state is intact.
    """
    if importlib.util.find_spec("lightning") is None:
        raise MissingExtraError("lightning", "train")
    # Imports Lightning, which takes seconds.
    from mllm_msr.baselines._training.loop import TrainingModule  # noqa: PLC0415

    fingerprint = {**changed_fields(options), **(fingerprint or {})}
    start = load_matching(folder, fingerprint) if folder is not None else None
    progress = Progress.from_state(start)
    if start is not None:
        network.load_state_dict(start.part("model."))
    if not progress.stopped_because:
        module = functools.partial(
            TrainingModule, network, epoch_batches, loss=loss, validate=validate, options=options,
            progress=progress, start=start, folder=folder, fingerprint=fingerprint,
        )  # fmt: skip
        shown = show(options.epochs, progress.step)
        with shown as advance, seeded(options.seed), quiet_lightning():
            _lightning_trainer(options).fit(module(advance=advance))
    network.cpu()
    if progress.best_weights:
        network.load_state_dict(progress.best_weights)
    network.eval()
    log = TrainingLog.from_progress(progress)
    log.write()
    return log


def _lightning_trainer(options: LoopOptions) -> Any:
    import lightning  # noqa: PLC0415 - takes seconds

    precision = options.precision
    if precision == "auto":
        precision = "bf16" if supports_bf16() else "fp32"
    return lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision=_LIGHTNING_PRECISION[precision],
        max_epochs=options.epochs,
        gradient_clip_val=options.clip or None,
        reload_dataloaders_every_n_epochs=1,
        logger=False,
        **QUIET_TRAINER,
    )


def supports_bf16() -> bool:
    """Check whether bfloat16 matrix products are faster than float32 ones on this machine."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
