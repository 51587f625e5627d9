"""Lightning module that trains the network of a baseline; `train.py` runs it.

The baselines share the checkpoint format, early stopping and resumption of the ranker
(`ranker/training/checkpoint.py`), but not its loop (`ranker/training/module.py`). The ranker counts
optimizer steps of one long pass: it seeds dropout, measures the gradient norm, logs and may save
at every step, and gathers weights that are sharded over devices, which would take about 15 % of a
GRU4Rec step. The baselines count epochs: they build new batches, validate and save between epochs
on one device, so a common loop would consist of two branches with little in common.

Importing this module imports Lightning, which takes seconds.
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

from mllm_msr.baselines._training.options import TIME_LIMIT, B, LoopOptions, Validate
from mllm_msr.errors import NonFiniteLossError
from mllm_msr.ranker.training.checkpoint import Progress, TrainingState, require_finite, save_state


class TrainingModule(lightning.LightningModule):  # type: ignore[misc]
    """Lightning module for the remaining epochs of a training run.

    Args:
        network: Network to train.
        epoch_batches: Returns the batches of an epoch.
        loss: Returns the mean loss of a batch.
        validate: Returns the validation metric; `None` without validation.
        options: Options of the training loop.
        progress: Progress of the run; updated in place.
        start: Saved state that the run resumes from; `None` for a new run.
        folder: Folder of the states; `None` to save none.
        fingerprint: Fingerprint of the run, saved with every state.
        advance: Called with 1 after each epoch.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        epoch_batches: Callable[[int], Sequence[B]],
        *,
        loss: Callable[[B], Tensor],
        validate: Validate | None,
        options: LoopOptions,
        progress: Progress,
        start: TrainingState | None,
        folder: Path | None,
        fingerprint: Mapping[str, Any],
        advance: Callable[[int], None],
    ) -> None:
        super().__init__()
        self.network = network
        self._epoch_batches = epoch_batches
        self._loss = loss
        self._validate = validate
        self._options = options
        self._progress = progress
        self._start = start
        self._folder = folder
        self._fingerprint = fingerprint
        self._advance = advance
        # Time spent in interrupted processes, and the start time of this one.
        self._earlier_seconds = progress.seconds
        self._started = time.monotonic()

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of the next epoch."""
        batches: Any = self._epoch_batches(self._progress.step)
        # The loader must not advance the global generator, which draws the dropout masks.
        return DataLoader(batches, batch_size=None, generator=torch.Generator())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Create AdamW and restore its saved state."""
        options = self._options
        # Lightning does not clip the gradients of a fused optimizer under autocast.
        fused = not (options.clip and self.trainer.precision == "bf16-mixed")
        optimizer = torch.optim.AdamW(
            [weight for weight in self.network.parameters() if weight.requires_grad],
            lr=options.learning_rate,
            betas=(0.9, options.beta2),
            weight_decay=options.weight_decay,
            fused=fused,
        )
        if self._start is not None:
            states: dict[int, dict[str, Tensor]] = {}
            for name, tensor in self._start.part("optimizer.").items():
                index, kind = name.split(".", 1)
                states.setdefault(int(index), {})[kind] = tensor
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": states, "param_groups": groups})
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Seed dropout by the seed and the epoch, so that a resumed run draws the same masks."""
        torch.manual_seed((self._options.seed << 32) + self._progress.step)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the mean loss of a batch.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite.
        """
        loss = self._loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"The loss is {value} in batch {batch_idx} of epoch {self._progress.step + 1}. "
                "Lower the learning rate or train in fp32. The last saved state is intact."
            )
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop if the time limit is reached."""
        _ = outputs, batch, batch_idx
        limit = self._options.max_minutes
        if limit is not None and self._seconds() > 60 * limit:
            self._progress.stopped_because = f"{TIME_LIMIT} of {limit} minutes"
            self.trainer.should_stop = True

    def on_train_epoch_end(self) -> None:
        """Validate if due, decide whether to stop, and save a state."""
        progress, options = self._progress, self._options
        progress.step += 1
        self._advance(1)
        last = bool(progress.stopped_because) or progress.step == options.epochs
        require_finite(dict(self.network.named_parameters()), step=progress.step)
        if self._validate is not None and (last or progress.step % options.validate_every == 0):
            self.network.eval()
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                value = self._validate()
            self.network.train()
            progress.record_validation(
                value, self.network.state_dict, patience=options.early_stopping_patience
            )
        if progress.step == options.epochs:
            progress.stopped_because = progress.stopped_because or "all epochs done"
        progress.seconds = self._seconds()
        if progress.stopped_because:
            self.trainer.should_stop = True
        if self._folder is not None:
            tensors = {f"model.{name}": t for name, t in self.network.state_dict().items()}
            states = self.optimizers(use_pl_optimizer=False).state_dict()["state"]
            for index, kinds in states.items():
                tensors |= {f"optimizer.{index}.{kind}": t for kind, t in kinds.items()}
            save_state(self._folder, progress.to_state(tensors, self._fingerprint))

    def _seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._started
