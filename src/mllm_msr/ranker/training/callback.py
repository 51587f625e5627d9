"""The Lightning callback of fine-tuning: it logs, validates, saves and stops.

Everything happens at whole optimiser steps, so that a state on disk always stands between two of
them. The checkpoint with the best validation value is the one that training ends with.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
from torch import Tensor

from mllm_msr.ranker.training.checkpoint import LOG_FILE, Progress, TrainingState, save_state
from mllm_msr.ranker.training.module import Batch, FineTuning
from mllm_msr.ranker.training.validation import Judge

logger = logging.getLogger(__name__)


class Keeper(lightning.Callback):  # type: ignore[misc]
    """Validates, logs, saves and stops, at whole optimiser steps only.

    Args:
        folder: Folder of the states and of the log.
        progress: Where the run stands; changed in place.
        facts: What every state carries besides.
        judge: Value of the validation examples' P(yes), higher is better; `None` without any.
        validate_every: Optimiser steps between validations.
        checkpoint_every: Optimiser steps between states; 0 saves none.
        early_stopping_patience: Validations without gain before the run stops.
        batch_size: Examples per validation batch.
        advance: Called with 1 after each optimiser step.
    """

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        *,
        facts: Mapping[str, Any],
        judge: Judge | None,
        validate_every: int,
        checkpoint_every: int,
        early_stopping_patience: int,
        batch_size: int,
        advance: Callable[[int], None],
    ) -> None:
        self._folder = folder
        self._progress = progress
        self._facts = facts
        self._judge = judge
        self._validate_every = validate_every
        self._checkpoint_every = checkpoint_every
        self._early_stopping_patience = early_stopping_patience
        self._batch_size = batch_size
        self._advance = advance
        self._clock = time.monotonic()

    def on_train_start(self, trainer: Any, pl_module: FineTuning) -> None:
        """Start the clock and restore the loss scaler."""
        _ = pl_module
        if self._progress.scaler:
            trainer.precision_plugin.load_state_dict(self._progress.scaler)
        self._clock = time.monotonic()

    def on_train_batch_end(
        self, trainer: Any, pl_module: FineTuning, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """After the last forward pass of an optimiser step: log, and what else is due."""
        _ = outputs, batch_idx
        if batch["part"] + 1 < pl_module.accumulate:
            return
        progress = self._progress
        progress.step = step = batch["step"] + 1
        last = step == pl_module.schedule.n_steps
        self._log_step(trainer, pl_module)
        self._advance(1)
        if self._judge is not None and (last or step % self._validate_every == 0):
            self._validate(trainer, pl_module)
        if last:
            progress.stopped_because = "all steps done"
        if progress.stopped_because:
            trainer.should_stop = True
        due = self._checkpoint_every and step % self._checkpoint_every == 0
        if due or progress.stopped_because:
            self._save(trainer, pl_module)

    def _validate(self, trainer: Any, module: FineTuning) -> None:
        progress = self._progress
        value = self._judge(module.validation_scores(batch_size=self._batch_size))  # type: ignore[misc]
        self._log(trainer, {"step": progress.step, "validation_auc": value})
        if progress.best is None or value > progress.best:
            progress.best, progress.best_step, progress.waited = value, progress.step, 0
            progress.best_weights = _copies(module.weights())
            return
        progress.waited += 1
        if progress.waited >= self._early_stopping_patience:
            progress.stopped_because = f"no gain in {progress.waited} validations"

    def _save(self, trainer: Any, module: FineTuning) -> None:
        now = time.monotonic()
        progress = self._progress
        progress.seconds += now - self._clock
        self._clock = now
        if self._checkpoint_every:
            state = self._state(trainer, module)
            if trainer.is_global_zero:
                save_state(self._folder, state)
        trainer.strategy.barrier()

    def _state(self, trainer: Any, module: FineTuning) -> TrainingState:
        progress = self._progress
        progress.scaler = trainer.precision_plugin.state_dict()
        tensors = {
            **{f"model.{name}": t for name, t in module.weights().items()},
            **{f"best.{name}": t for name, t in progress.best_weights.items()},
            **module.optimizer_tensors(),
        }
        return TrainingState(progress.step, tensors, {**self._facts, **progress.facts()})

    def _log_step(self, trainer: Any, module: FineTuning) -> None:
        row = {
            "step": self._progress.step,
            "loss": module.take_loss(),
            "gradient_norm": module.take_gradient_norm(),
            "learning_rate": module.rate,
            "seconds": self._progress.seconds + time.monotonic() - self._clock,
        }
        self._log(trainer, row)

    def _log(self, trainer: Any, row: Mapping[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        logger.info("%s", row)
        with (self._folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if trainer.logger is not None:
            values = {name: value for name, value in row.items() if name != "step"}
            trainer.logger.log_metrics(values, step=int(row["step"]))


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
