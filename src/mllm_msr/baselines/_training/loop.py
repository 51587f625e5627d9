"""The Lightning module behind `train.train`; importing it takes seconds.

Lightning brings devices, precision and clipping. What a killed run must repeat exactly is ours:
each epoch's chance is a function of seed and epoch, and a state stands between two epochs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mllm_msr.baselines._training.train import B, Judge, LoopOptions
from mllm_msr.errors import NonFiniteLossError
from mllm_msr.ranker.training.checkpoint import (
    Progress,
    TrainingState,
    refuse_non_finite,
    save_state,
)


class Loop(lightning.LightningModule):  # type: ignore[misc]
    """One run over the epochs that are left; arguments as for `train.train`.

    Args:
        network: What learns.
        epoch_batches: The batches of an epoch.
        loss: Mean loss of a batch.
        judge: Value of the network on validation users.
        options: How to train.
        progress: Where the run stands; changed in place.
        start: The state behind `progress`, None at the beginning.
        folder: Folder of the states, None to keep none.
        facts: What every state carries besides.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        epoch_batches: Callable[[int], Sequence[B]],
        *,
        loss: Callable[[B], Tensor],
        judge: Judge | None,
        options: LoopOptions,
        progress: Progress,
        start: TrainingState | None,
        folder: Path | None,
        facts: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.network = network
        self._epoch_batches = epoch_batches
        self._loss = loss
        self._judge = judge
        self._options = options
        self._progress = progress
        self._start = start
        self._folder = folder
        self._facts = facts
        self._before = progress.seconds
        self._clock = time.monotonic()

    def train_dataloader(self) -> DataLoader[Any]:
        """The batches of the epoch that comes."""
        batches: Any = self._epoch_batches(self._progress.step)
        # A generator of its own: the loader must not draw from the one that makes dropout masks.
        return DataLoader(batches, batch_size=None, generator=torch.Generator())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with what it had when the state was saved."""
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(
            weights,
            lr=self._options.learning_rate,
            betas=(0.9, self._options.beta2),
            weight_decay=self._options.weight_decay,
            fused=True,
        )
        if self._start is not None:
            states: dict[int, dict[str, Tensor]] = {}
            for name, tensor in self._start.part("optimizer.").items():
                place, kind = name.split(".", 1)
                states.setdefault(int(place), {})[kind] = tensor
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": states, "param_groups": groups})
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Make the epoch's chance a function of seed and epoch."""
        torch.manual_seed((self._options.seed << 32) + self._progress.step)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss of a batch.

        Raises:
            NonFiniteLossError: It is NaN or infinite.
        """
        loss = self._loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLossError(
                needed="a finite loss",
                received=f"{value} in batch {batch_idx} of epoch {self._progress.step + 1}",
                remedy="lower the learning rate or train in fp32; the last state is untouched",
            )
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop where the time is up."""
        _ = outputs, batch, batch_idx
        if self._seconds() > 60 * self._options.max_minutes:
            self._progress.stopped_because = f"{self._options.max_minutes} minutes are over"
            self.trainer.should_stop = True

    def on_train_epoch_end(self) -> None:
        """Judge, decide whether to go on, and keep a state."""
        progress, options = self._progress, self._options
        progress.step += 1
        last = bool(progress.stopped_because) or progress.step == options.epochs
        refuse_non_finite(dict(self.network.named_parameters()), step=progress.step)
        if self._judge is not None and (last or progress.step % options.validate_every == 0):
            self._validate(self._judge)
        if progress.step == options.epochs:
            progress.stopped_because = progress.stopped_because or "all epochs done"
        progress.seconds = self._seconds()
        if progress.stopped_because:
            self.trainer.should_stop = True
        if self._folder is not None:
            save_state(self._folder, self._state())

    def _validate(self, judge: Judge) -> None:
        progress = self._progress
        self.network.eval()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            value = judge()
        self.network.train()
        if progress.best is None or value > progress.best:
            progress.best, progress.best_step, progress.waited = value, progress.step, 0
            progress.best_weights = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.network.state_dict().items()
            }
            return
        progress.waited += 1
        if progress.waited >= self._options.early_stopping_patience:
            progress.stopped_because = f"no gain in {progress.waited} validations"

    def _state(self) -> TrainingState:
        states = self.optimizers(use_pl_optimizer=False).state_dict()["state"]
        tensors = {
            **{f"model.{name}": t for name, t in self.network.state_dict().items()},
            **{f"best.{name}": t for name, t in self._progress.best_weights.items()},
            **{
                f"optimizer.{place}.{kind}": tensor
                for place, kinds in states.items()
                for kind, tensor in kinds.items()
            },
        }
        facts = {**self._progress.facts(), "given": self._facts}
        return TrainingState(step=self._progress.step, tensors=tensors, facts=facts)

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._clock
