"""Lightning callback of fine-tuning: logging, validation, saved states and early stopping.

The callback acts only after complete optimizer steps, so that states are never saved within one.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning

from mllm_msr.ranker.training.checkpoint import LOG_FILE, Progress, save_state
from mllm_msr.ranker.training.display import TrainingProgress, hide_progress
from mllm_msr.ranker.training.module import FineTuningModule, MicroBatch
from mllm_msr.ranker.training.validation import ScoreMetric
from mllm_msr.storage.atomic import create_private_file, wrap_os_errors

logger = logging.getLogger(__name__)


class TrainingCallback(lightning.Callback):  # type: ignore[misc]
    """Callback that logs, validates, saves states and stops early, after each optimizer step.

    Args:
        folder: Folder of the states and the log.
        progress: Progress of the run; updated in place.
        fingerprint: Fingerprint of the run, saved with every state.
        metric: Metric of the validation scores, higher is better; `None` without validation.
        validate_every: Optimizer steps between validations.
        checkpoint_every: Optimizer steps between saved states; 0 saves none.
        early_stopping_patience: Validations without improvement before training stops.
        batch_size: Examples per validation batch.
        advance: Called with 1 after each optimizer step.
        show: Shows the progress of validations.
    """

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        *,
        fingerprint: Mapping[str, Any],
        metric: ScoreMetric | None,
        validate_every: int,
        checkpoint_every: int,
        early_stopping_patience: int,
        batch_size: int,
        advance: Callable[[int], None],
        show: TrainingProgress = hide_progress,
    ) -> None:
        self._folder = folder
        self._progress = progress
        self._fingerprint = fingerprint
        self._metric = metric
        self._validate_every = validate_every
        self._checkpoint_every = checkpoint_every
        self._early_stopping_patience = early_stopping_patience
        self._batch_size = batch_size
        self._advance = advance
        self._show = show
        self._last_time = time.monotonic()

    def on_train_start(self, trainer: Any, pl_module: FineTuningModule) -> None:
        """Restore the loss scaler and start the clock."""
        _ = pl_module
        if self._progress.scaler:
            trainer.precision_plugin.load_state_dict(self._progress.scaler)
        self._last_time = time.monotonic()

    def on_exception(self, trainer: Any, pl_module: FineTuningModule, exception: Any) -> None:
        """End the workers that Lightning has started, which would wait for this process.

        Lightning observes the list of workers and kills this process within seconds if one of them
        has failed, so they are removed from the list before they are ended.
        """
        _ = pl_module, exception
        started: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        workers = started.copy()
        started.clear()
        for worker in workers:
            worker.kill()
            worker.wait()

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: FineTuningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
    ) -> None:
        """Log a finished optimizer step; validate, save and stop if due."""
        _ = outputs, batch_idx
        if batch["part"] + 1 < pl_module.accumulate:
            return
        progress = self._progress
        progress.step = step = batch["step"] + 1
        is_last = step == pl_module.sampler.n_steps
        self._log_step(trainer, pl_module)
        self._advance(1)
        if self._metric is not None and (is_last or step % self._validate_every == 0):
            scores = pl_module.validation_scores(batch_size=self._batch_size, show=self._show)
            value = self._metric(scores)
            self._log(trainer, {"step": step, "validation_auc": value})
            progress.record_validation(
                value,
                pl_module.trainable_weights,
                patience=self._early_stopping_patience,
                scores=scores,
            )
        if is_last:
            progress.stopped_because = "all steps done"
        if progress.stopped_because:
            trainer.should_stop = True
        is_due = self._checkpoint_every and step % self._checkpoint_every == 0
        if is_due or progress.stopped_because:
            self._save(trainer, pl_module)

    def _save(self, trainer: Any, module: FineTuningModule) -> None:
        now = time.monotonic()
        self._progress.seconds += now - self._last_time
        self._last_time = now
        if self._checkpoint_every:
            self._progress.scaler = trainer.precision_plugin.state_dict()
            # Collective under some strategies: every rank must take part.
            state = self._progress.to_state(module.state_tensors(), self._fingerprint)
            if trainer.is_global_zero:
                save_state(self._folder, state)
        trainer.strategy.barrier()

    def _log_step(self, trainer: Any, module: FineTuningModule) -> None:
        row = {
            "step": self._progress.step,
            "loss": module.take_loss(),
            "gradient_norm": module.take_gradient_norm(),
            "learning_rate": module.learning_rate,
            "seconds": self._progress.seconds + time.monotonic() - self._last_time,
        }
        self._log(trainer, row)

    def _log(self, trainer: Any, row: Mapping[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        values = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in row.items()]
        logger.info("%s", ", ".join(values))
        log = self._folder / LOG_FILE
        with wrap_os_errors(log):
            create_private_file(log)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        tracked = {f"train/{name}": value for name, value in row.items() if name != "step"}
        for tracker in trainer.loggers:
            tracker.log_metrics(tracked, step=int(row["step"]))
