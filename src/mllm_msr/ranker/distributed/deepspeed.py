"""DeepSpeed ZeRO stages 1 and 2: partition the optimizer state and, in stage 2, the gradients.

The paper trains with stage 2 ("Implementation Details"). DeepSpeed computes in the precision of
`train.precision` and keeps a partitioned float32 copy of the trainable weights; that copy is saved.
This module imports Lightning and DeepSpeed, so it is imported only when a run trains with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn

from mllm_msr.ranker.distributed.base import (
    DistributedStrategy,
    saved_optimizer_tensors,
    trainable_parameters,
)

_MOMENTS = ("exp_avg", "exp_avg_sq")


class AnyDeviceDeepSpeed(DeepSpeedStrategy):  # type: ignore[misc]
    """Lightning's DeepSpeed strategy, extended to CPUs, which Lightning does not allow."""

    @property
    def root_device(self) -> torch.device:
        """Return the device of the process; DeepSpeed needs an index on CPUs, too."""
        device: torch.device = super().root_device
        return torch.device("cpu", self.local_rank) if device.type == "cpu" else device

    def setup_environment(self) -> None:
        """Create the process group; the parent class requires a GPU for this."""
        if self.root_device.type == "cuda":
            super().setup_environment()
        else:
            super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Create the process group without the parent's check of GPU indices on CPUs."""
        if self.root_device.type == "cuda":
            super().setup_distributed()
        else:
            self.set_world_ranks()
            self._init_deepspeed_distributed()

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Backpropagate a loss that Lightning has already divided by the accumulated batches."""
        kwargs["scale_wrt_gas"] = False
        result: Tensor = super().backward(closure_loss, optimizer, *args, **kwargs)
        return result


@final
class DeepSpeedZero(DistributedStrategy):
    """Replicated weights and partitioned optimizer state.

    Args:
        stage: 1 partitions the optimizer state, 2 also the gradients.
        batch_size: Examples per forward pass; DeepSpeed only logs it.
    """

    def __init__(self, *, stage: int, batch_size: int) -> None:
        self._stage = stage
        self._batch_size = batch_size

    @property
    def supports_prefix_sharing(self) -> bool:
        """Return True: gradients of both passes are added before they are averaged."""
        return True

    def lightning_strategy(self) -> AnyDeviceDeepSpeed:
        """Return Lightning's strategy for the stage."""
        return AnyDeviceDeepSpeed(stage=self._stage, logging_batch_size_per_gpu=self._batch_size)

    def shard(self, model: nn.Module, mesh: Any) -> None:
        """Do nothing: DeepSpeed partitions the state itself."""

    def gradient_norm_before_step(self, optimizer: Any) -> None:
        """Return `None`: DeepSpeed computes the norm in the step."""

    def gradient_norm_after_step(self, optimizer: Any) -> float:
        """Return the global gradient norm before clipping."""
        return float(optimizer._global_grad_norm)  # noqa: SLF001 - public at the engine only

    def trainable_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Gather the float32 copies of the weights."""
        return {
            name: _require(safe_get_full_fp32_param(weight), name)
            for name, weight in trainable_parameters(model).items()
        }

    def optimizer_state(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        """Gather the optimizer state of all processes."""
        (step, *_) = (state["step"] for state in optimizer.optimizer.state.values())
        tensors = {}
        for name, weight in trainable_parameters(model).items():
            tensors[f"optimizer.step.{name}"] = torch.as_tensor(step).clone()
            for kind in _MOMENTS:
                moment = _require(safe_get_full_optimizer_state(weight, kind), name)
                tensors[f"optimizer.{kind}.{name}"] = moment
        return tensors

    def restore_optimizer(
        self, model: nn.Module, optimizer: Any, tensors: Mapping[str, Tensor]
    ) -> None:
        """Restore this process's part of the optimizer state and of the float32 weights."""
        weights = trainable_parameters(model)
        saved = {name: saved_optimizer_tensors(name, tensors) for name in weights}
        steps = [state["step"] for state in saved.values() if state]
        if not steps:
            return
        inner = optimizer.optimizer
        for part in (part for group in inner.param_groups for part in group["params"]):
            inner.state[part] = {kind: torch.zeros_like(part) for kind in _MOMENTS}
            inner.state[part]["step"] = steps[0].clone()
        # DeepSpeed does this in its first step, but the calls below need it before.
        optimizer._lazy_init_hp_params_optimizer_state()  # noqa: SLF001
        for name, weight in weights.items():
            safe_set_full_fp32_param(weight, tensors[f"model.{name}"].to(weight.device))
            for kind in _MOMENTS:
                safe_set_full_optimizer_state(weight, saved[name][kind].to(weight.device), kind)

    def gather(self, model: nn.Module) -> None:
        """Replace the weights by DeepSpeed's float32 copies."""
        for name, tensor in self.trainable_weights(model).items():
            model.get_parameter(name).data = tensor


def _require(tensor: Tensor | None, name: str) -> Tensor:
    if tensor is None:
        message = f"DeepSpeed has no state for the weight {name!r}."
        raise RuntimeError(message)
    return tensor
