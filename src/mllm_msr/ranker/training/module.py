"""The Lightning module of fine-tuning: batches, loss, optimiser and P(yes).

Only `trainer.py` imports this file and `keeper.py`, and only when training starts, since importing
Lightning takes seconds. Lightning brings devices, precision, accumulation, clipping and
strategies; the order of the data, validation, stopping and checkpoints are ours, because a run
that is killed anywhere must go on to the same result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mllm_msr.config.settings import TrainSettings
from mllm_msr.errors import NonFiniteLossError
from mllm_msr.ranker.distributed.base import Sharing
from mllm_msr.ranker.training.checkpoint import TrainingState
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.lora import image_token_ids
from mllm_msr.ranker.training.loss import choice_logits, example_losses
from mllm_msr.ranker.training.prefix_sharing import Beginnings, can_read_beginnings, find_beginnings
from mllm_msr.ranker.training.sampler import Schedule, rate_factor, side_by_side
from mllm_msr.ranker.training.vision_cache import VisionCache


class Batch(TypedDict):
    """One forward pass: which step it belongs to, its examples and its tensors."""

    step: int
    part: int
    indices: list[int]
    inputs: dict[str, Tensor]
    labels: Tensor


class Batches(Dataset[Batch]):
    """The forward passes that are left of one process, in order."""

    def __init__(
        self,
        collator: Collator,
        schedule: Schedule,
        *,
        first_step: int,
        accumulate: int,
        rank: int,
        n_ranks: int,
        pixels: bool,
    ) -> None:
        self._collator = collator
        self._schedule = schedule
        self._first_step = first_step
        self._accumulate = accumulate
        self._rank = rank
        self._n_ranks = n_ranks
        self._pixels = pixels

    def __len__(self) -> int:
        return (self._schedule.n_steps - self._first_step) * self._accumulate

    def __getitem__(self, index: int) -> Batch:
        offset, part = divmod(index, self._accumulate)
        step = self._first_step + offset
        examples = self._schedule.step(step)
        n_parts = self._accumulate * self._n_ranks
        size = len(examples) // n_parts
        place = part * self._n_ranks + self._rank
        indices = examples[place * size : (place + 1) * size].tolist()
        inputs = self._collator.training_batch(indices, pixels=self._pixels)
        labels = inputs.pop("labels")
        return Batch(step=step, part=part, indices=indices, inputs=inputs, labels=labels)


class FineTuning(lightning.LightningModule):  # type: ignore[misc]
    """Loss, optimiser and P(yes) of the model that learns.

    Args:
        model: The model, wrapped or unfrozen.
        collator: Renders and stacks the training examples.
        validation: The same for the validation examples, `None` where there are none.
        schedule: Which examples each step sees.
        vision: Features of images, `None` to encode them every time.
        settings: Learning rate, accumulation and the like.
        sharing: How several processes share the work.
        start: State to go on from.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        collator: Collator,
        *,
        validation: Collator | None,
        schedule: Schedule,
        vision: VisionCache | None,
        settings: TrainSettings,
        sharing: Sharing,
        start: TrainingState | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule
        self.accumulate = settings.accumulate
        self._losses: list[float] = []
        self._gradient_norm = 0.0
        self.rate = 0.0
        self._collator = collator
        self._validation = validation
        self._vision = vision
        self._settings = settings
        self._sharing = sharing
        self._start = start
        self._answers_only = settings.loss == "answer"
        apart = sharing.reads_beginnings and can_read_beginnings(model)
        self._shares = vision is not None and apart
        self._image_token_ids = image_token_ids(model)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The forward passes that are left."""
        batches = Batches(
            self._collator,
            self.schedule,
            first_step=self._start.step if self._start else 0,
            accumulate=self.accumulate,
            rank=self.global_rank,
            n_ranks=self.trainer.world_size,
            pixels=self._vision is None,
        )
        # A generator of its own: the loader must not draw from the one that makes dropout masks.
        return DataLoader(batches, batch_size=None, generator=torch.Generator())

    def configure_model(self) -> None:
        """Cut the weights into the processes' shares, where the strategy does that."""
        self._sharing.divide(self.model, self.device_mesh)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, and a learning rate that is a function of the step alone."""
        settings = self._settings
        first = self._start.step if self._start else 0
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(
            weights, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda done: rate_factor(
                first + done,
                n_steps=self.schedule.n_steps,
                warmup=settings.warmup,
                scheduler=settings.scheduler,
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_train_start(self) -> None:
        """Give the optimiser what it had when the state was saved."""
        if self._start is None:
            return
        self._sharing.restore(self.model, self._optimizer(), self._start.tensors)

    def weights(self) -> dict[str, Tensor]:
        """The weights that learn, by name and whole; called by all processes at once."""
        return self._sharing.weights(self.model)

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The optimiser's state as named tensors; called by all processes at once."""
        return self._sharing.optimizer_tensors(self.model, self._optimizer())

    def _optimizer(self) -> Any:
        # DeepSpeed's is none of PyTorch's, and Lightning then hands it over in a list.
        found = self.optimizers(use_pl_optimizer=False)
        return found[0] if isinstance(found, list) else found

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout masks a function of seed and place, so that no state of chance is kept."""
        _ = batch_idx
        place = (batch["step"] * self.accumulate + batch["part"]) * self.trainer.world_size
        torch.manual_seed((self._settings.seed << 32) + place + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of the batch's examples.

        Raises:
            NonFiniteLossError: It is NaN or infinite.
        """
        _ = batch_idx
        shared = self._shared(self._collator, batch["indices"]) if self._answers_only else None
        inputs = self._with_images(batch["inputs"], self._collator, batch["indices"], shared)
        loss = example_losses(self.model, inputs, batch["labels"], shared).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise _non_finite(f"a loss of {value}", step=batch["step"])
        self._losses.append(value)
        return loss

    def take_loss(self) -> float:
        """Mean loss since the last call, over all processes that train together."""
        loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        if self.trainer.world_size == 1:
            return loss
        own = torch.tensor(loss, dtype=torch.float64, device=self.device)
        return float(self.trainer.strategy.reduce(own, reduce_op="mean"))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before a NaN reaches the weights; in fp16 the scaler skips such steps itself.

        Raises:
            NonFiniteLossError: A gradient is NaN or infinite.
        """
        self.rate = optimizer.param_groups[0]["lr"]
        norm = self._sharing.gradient_norm(optimizer)
        if norm is not None:
            self._accept(norm)

    def take_gradient_norm(self) -> float:
        """Norm of the last optimiser step's gradients, before they were clipped.

        Raises:
            NonFiniteLossError: It is NaN or infinite, and could not be known before the step.
        """
        norm = self._sharing.norm_of_last_step(self._optimizer())
        if norm is not None:
            self._accept(norm)
        return self._gradient_norm

    def _accept(self, norm: float) -> None:
        self._gradient_norm = norm
        if not (self._settings.precision == "fp16" or math.isfinite(norm)):
            step = self.trainer.global_step + (self._start.step if self._start else 0)
            raise _non_finite(f"a gradient of norm {norm}", step=step)

    def _shared(self, collator: Collator, indices: Sequence[int]) -> Beginnings | None:
        if not self._shares:
            return None
        prompts = [collator.rendered(index) for index in indices]
        return find_beginnings(prompts, self._image_token_ids)

    def _with_images(
        self,
        inputs: Mapping[str, Any],
        collator: Collator,
        indices: Sequence[int],
        shared: Beginnings | None,
    ) -> dict[str, Any]:
        if self._vision is None:
            return dict(inputs)
        shown = indices if shared is None else [indices[row] for row in shared.rows]
        return {**inputs, **self._vision.inputs([collator.rendered(index) for index in shown])}

    @torch.no_grad()
    def validation_scores(self, *, batch_size: int) -> list[float]:
        """P(yes) of every validation example, in their order, on every process alike."""
        collator = self._validation
        if collator is None:
            return []
        order = side_by_side(collator.lengths(), collator.images()).tolist()
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        scores = torch.zeros(len(order), dtype=torch.float64, device=self.device)
        self.model.eval()
        for number in range(
            self.global_rank, len(batches) + self.global_rank, self.trainer.world_size
        ):
            # Where weights are shared, a process with nothing left must keep the others company.
            indices = batches[min(number, len(batches) - 1)]
            inputs = collator.scoring_batch(indices, pixels=self._vision is None)
            moved = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            shared = self._shared(collator, indices)
            with self.trainer.precision_plugin.forward_context():
                logits = choice_logits(
                    self.model,
                    self._with_images(moved, collator, indices, shared),
                    collator.choice_ids,
                    shared,
                ).double()
            if number < len(batches):
                scores[indices] = torch.sigmoid(logits[:, 0] - logits[:, 1])
        self.model.train()
        total: Tensor = self.trainer.strategy.reduce(scores, reduce_op="sum")
        return [float(score) for score in total.cpu()]


def _non_finite(what: str, *, step: int) -> NonFiniteLossError:
    return NonFiniteLossError(
        needed="a finite loss and finite gradients",
        received=f"{what} in optimiser step {step}",
        remedy="lower the learning rate or train in fp32; the last saved state is untouched",
    )
