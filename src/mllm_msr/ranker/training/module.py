"""Lightning module of fine-tuning: batches, loss, optimizer and validation scores.

Only `trainer.py` imports this module and `callback.py`, and only when training starts, because
importing Lightning takes seconds. Lightning provides devices, precision, accumulation, clipping and
strategies. The order of the data, validation, early stopping and checkpoints are implemented here,
because a run that is killed at any time must resume to the same result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.errors import NonFiniteLossError
from mllm_msr.models.prefix_support import prefix_support
from mllm_msr.models.vector_tokens import find_vector_projector
from mllm_msr.models.vision_cache import VisionCache
from mllm_msr.ranker.distributed.base import DistributedStrategy
from mllm_msr.ranker.training.checkpoint import TrainingState
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.display import TrainingProgress, hide_progress
from mllm_msr.ranker.training.lora import image_token_ids
from mllm_msr.ranker.training.loss import choice_logits, example_losses, list_losses
from mllm_msr.ranker.training.prefix_sharing import (
    SharedPrefixes,
    find_shared_prefixes,
    supports_shared_prefixes,
)
from mllm_msr.ranker.training.sampler import StepSampler, learning_rate_factor, sort_by_group

# Lowest learning rate of the projector for vectors, which begins at random.
_PROJECTOR_RATE: Final = 1e-3


class MicroBatch(TypedDict):
    """Batch of one forward pass.

    `step` is its optimizer step and `part` its index among the forward passes of the step. With the
    listwise objective, `sizes` has the number of candidates of each target, and `labels` has one
    value per candidate; otherwise `labels` has one per token.
    """

    step: int
    part: int
    indices: list[int]
    inputs: dict[str, Tensor]
    labels: Tensor
    sizes: list[int]


class MicroBatches(Dataset[MicroBatch]):
    """Remaining forward passes of one process, in order.

    Args:
        collator: Renders and stacks the training examples.
        sampler: Examples, or lists, of each optimizer step.
        lists: Examples of each list; None if the sampler draws single examples.
        first_step: First optimizer step that is not done yet.
        accumulate: Forward passes per optimizer step and process.
        rank: Rank of the process.
        n_ranks: Number of processes.
        pixels: Include the pixels of the images.
    """

    def __init__(
        self,
        collator: Collator,
        sampler: StepSampler,
        lists: Sequence[Sequence[int]] | None = None,
        *,
        first_step: int,
        accumulate: int,
        rank: int,
        n_ranks: int,
        pixels: bool,
    ) -> None:
        self._collator = collator
        self._sampler = sampler
        self._lists = lists
        self._first_step = first_step
        self._accumulate = accumulate
        self._rank = rank
        self._n_ranks = n_ranks
        self._pixels = pixels

    def __len__(self) -> int:
        return (self._sampler.n_steps - self._first_step) * self._accumulate

    def __getitem__(self, index: int) -> MicroBatch:
        offset, part = divmod(index, self._accumulate)
        step = self._first_step + offset
        examples = self._sampler.indices(step)
        size = len(examples) // (self._accumulate * self._n_ranks)
        start = (part * self._n_ranks + self._rank) * size
        drawn = examples[start : start + size].tolist()
        if self._lists is None:
            indices, sizes = drawn, []
            inputs = self._collator.training_batch(indices, pixels=self._pixels)
            labels = inputs.pop("labels")
        else:
            lists = [self._lists[index] for index in drawn]
            indices, sizes = [*itertools.chain(*lists)], [len(one) for one in lists]
            inputs = self._collator.scoring_batch(indices, pixels=self._pixels)
            labels = self._collator.labels(indices)
        return MicroBatch(
            step=step, part=part, indices=indices, inputs=inputs, labels=labels, sizes=sizes
        )


class FineTuningModule(lightning.LightningModule):  # type: ignore[misc]
    """Loss, optimizer and validation scores of the model that is fine-tuned.

    Args:
        model: Model with its trainable weights, see `lora.py`.
        collator: Renders and stacks the training examples.
        lists: Examples of each target for the listwise objective, else None.
        validation: Collator of the validation examples, `None` without any.
        sampler: Examples, or targets, of each optimizer step.
        vision: Cache of image features; `None` to encode images every time.
        settings: Training settings, such as learning rate and accumulation.
        strategy: Distribution over processes.
        start: State to resume from, `None` for a new run.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        collator: Collator,
        lists: Sequence[Sequence[int]] | None = None,
        *,
        validation: Collator | None,
        sampler: StepSampler,
        vision: VisionCache | None,
        settings: TrainSettings,
        strategy: DistributedStrategy,
        start: TrainingState | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.sampler = sampler
        self.accumulate = settings.accumulate
        self.learning_rate = 0.0
        self._losses: list[float] = []
        self._gradient_norm = 0.0
        self._collator = collator
        self._lists = lists
        self._validation = validation
        self._vision = vision
        self._settings = settings
        self._strategy = strategy
        self._start = start
        self._first_step = start.step if start is not None else 0
        self._shares_prefixes = (
            # Images within prefixes need features of their own; later ones may be pixels.
            (vision is not None or collator.order != "item-first")
            and strategy.supports_prefix_sharing
            and supports_shared_prefixes(model)
        )
        self._prefix_support = prefix_support(model.config)
        self._image_token_ids = image_token_ids(model)

    def train_dataloader(self) -> DataLoader[MicroBatch]:
        """Return the remaining forward passes."""
        batches = MicroBatches(
            self._collator,
            self.sampler,
            self._lists,
            first_step=self._first_step,
            accumulate=self.accumulate,
            rank=self.global_rank,
            n_ranks=self.trainer.world_size,
            pixels=self._vision is None,
        )
        # The loader must not advance the global generator, which draws the dropout masks.
        return DataLoader(batches, batch_size=None, generator=torch.Generator())

    def configure_model(self) -> None:
        """Shard the weights over the processes, if the strategy does so."""
        self._strategy.shard(self.model, self.device_mesh)

    def configure_optimizers(self) -> dict[str, Any]:
        """Create AdamW and a learning rate that is a function of the step alone."""
        settings = self._settings
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        groups: list[dict[str, Any]] = [{"params": weights}]
        projector = find_vector_projector(self.model)
        if projector is not None:
            own = set(projector.parameters())
            groups[0]["params"] = [weight for weight in weights if weight not in own]
            rate = max(_PROJECTOR_RATE, settings.learning_rate)
            groups.append({"params": list(projector.parameters()), "lr": rate})
        optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda n_done: learning_rate_factor(
                self._first_step + n_done,
                n_steps=self.sampler.n_steps,
                warmup=settings.warmup,
                scheduler=settings.scheduler,
            ),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Restore the optimizer state."""
        if self._start is not None:
            tensors = self._start.tensors
            self._strategy.restore_optimizer(self.model, self._optimizer(), tensors)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return weights and optimizer state for a `TrainingState`; collective."""
        weights = {f"model.{name}": t for name, t in self.trainable_weights().items()}
        return {**weights, **self._strategy.optimizer_state(self.model, self._optimizer())}

    def trainable_weights(self) -> dict[str, Tensor]:
        """Return the unsharded trainable weights by name; collective."""
        return self._strategy.trainable_weights(self.model)

    def _optimizer(self) -> Any:
        # DeepSpeed's optimizer is not a PyTorch optimizer; Lightning returns it in a list.
        found = self.optimizers(use_pl_optimizer=False)
        return found[0] if isinstance(found, list) else found

    def on_train_batch_start(self, batch: MicroBatch, batch_idx: int) -> None:
        """Seed dropout by seed, step, part and rank, so that states need no generator state."""
        _ = batch_idx
        index = (batch["step"] * self.accumulate + batch["part"]) * self.trainer.world_size
        torch.manual_seed((self._settings.seed << 32) + index + self.global_rank)

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        """Return the mean loss of the batch's examples or targets.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite.
        """
        _ = batch_idx
        indices, prefixes = batch["indices"], None
        # With loss "full", the tokens of prefixes are labeled, too, so they cannot be shared.
        if self._settings.loss == "answer":
            prefixes = self._shared_prefixes(self._collator, indices)
        inputs = self._with_images(batch["inputs"], self._collator, indices, prefixes)
        if self._lists is None:
            loss = example_losses(self.model, inputs, batch["labels"], prefixes).mean()
        else:
            logits = choice_logits(self.model, inputs, self._collator.choice_ids, prefixes)
            differences, share = logits[:, 0] - logits[:, 1], self._settings.pointwise_share
            labels, sizes = batch["labels"], batch["sizes"]
            loss = list_losses(differences, labels, sizes, pointwise_share=share).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise _non_finite(f"The loss is {value}", step=batch["step"])
        self._losses.append(value)
        return loss

    def take_loss(self) -> float:
        """Return the mean loss since the last call, over all processes."""
        loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        if self.trainer.world_size == 1:
            return loss
        own = torch.tensor(loss, dtype=torch.float64, device=self.device)
        return float(self.trainer.strategy.reduce(own, reduce_op="mean"))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Record learning rate and gradient norm, and stop before NaN reaches the weights.

        Raises:
            NonFiniteLossError: A gradient is NaN or infinite.
        """
        self.learning_rate = optimizer.param_groups[0]["lr"]
        norm = self._strategy.gradient_norm_before_step(optimizer)
        if norm is not None:
            self._record_gradient_norm(norm)

    def take_gradient_norm(self) -> float:
        """Return the gradient norm of the last optimizer step, before clipping.

        Raises:
            NonFiniteLossError: The norm is NaN or infinite and is known only after the step.
        """
        norm = self._strategy.gradient_norm_after_step(self._optimizer())
        if norm is not None:
            self._record_gradient_norm(norm)
        return self._gradient_norm

    def _record_gradient_norm(self, norm: float) -> None:
        self._gradient_norm = norm
        # In fp16, the loss scaler skips steps with such gradients itself.
        if self._settings.precision != "fp16" and not math.isfinite(norm):
            step = self._first_step + self.trainer.global_step
            raise _non_finite(f"The gradient norm is {norm}", step=step)

    def _shared_prefixes(self, collator: Collator, indices: Sequence[int]) -> SharedPrefixes | None:
        if not self._shares_prefixes:
            return None
        prompts = [collator.rendered(index) for index in indices]
        targets = collator.targets(indices)
        return find_shared_prefixes(
            prompts, self._image_token_ids, targets=targets, support=self._prefix_support
        )

    def _with_images(
        self,
        inputs: Mapping[str, Any],
        collator: Collator,
        indices: Sequence[int],
        prefixes: SharedPrefixes | None,
    ) -> dict[str, Any]:
        """Add the features of the images of prefixes or examples to inputs without pixels."""
        if self._vision is None:
            return dict(inputs)
        shown = list(indices)
        if prefixes is not None and not prefixes.images_in_suffix:
            shown = [indices[row] for row in prefixes.rows]
        return {**inputs, **self._vision.inputs([collator.rendered(index) for index in shown])}

    @torch.no_grad()
    def validation_scores(
        self, *, batch_size: int, show: TrainingProgress = hide_progress
    ) -> list[float]:
        """Return P(yes) of every validation example in order, the same list on every rank."""
        collator = self._validation
        if collator is None:
            return []
        order = sort_by_group(collator.lengths(), collator.prefix_groups()).tolist()
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        scores = torch.zeros(len(order), dtype=torch.float64, device=self.device)
        self.model.eval()
        n_ranks = self.trainer.world_size
        numbers = range(self.global_rank, len(batches) + self.global_rank, n_ranks)
        with show(len(numbers), 0, "validation") as advance:
            for number in numbers:
                # With sharded weights, a rank without batches still takes part in forward passes.
                indices = batches[min(number, len(batches) - 1)]
                inputs = collator.scoring_batch(indices, pixels=self._vision is None)
                moved = {name: tensor.to(self.device) for name, tensor in inputs.items()}
                prefixes = self._shared_prefixes(collator, indices)
                with self.trainer.precision_plugin.forward_context():
                    logits = choice_logits(
                        self.model,
                        self._with_images(moved, collator, indices, prefixes),
                        collator.choice_ids,
                        prefixes,
                    ).double()
                if number < len(batches):
                    scores[indices] = torch.sigmoid(logits[:, 0] - logits[:, 1])
                advance(1)
        self.model.train()
        total: Tensor = self.trainer.strategy.reduce(scores, reduce_op="sum")
        return [float(score) for score in total.cpu()]


def _non_finite(problem: str, *, step: int) -> NonFiniteLossError:
    return NonFiniteLossError(
        f"{problem} in optimizer step {step}. Lower train.learning_rate or set "
        "train.precision=fp32. The last saved state is intact."
    )
