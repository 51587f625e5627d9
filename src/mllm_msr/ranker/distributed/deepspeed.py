"""DeepSpeed's ZeRO stages 1 and 2: the optimiser, and the gradients, are cut among the processes.

The paper trains with stage 2 ("Implementation Details"). Imported only where a training asks for
it, since it imports Lightning and DeepSpeed. DeepSpeed computes in the precision of
`train.precision` and keeps a float32 copy of what learns, in parts; that copy is what is saved.
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

from mllm_msr.ranker.distributed.base import Sharing, learning, saved_of

_MOMENTS = ("exp_avg", "exp_avg_sq")


class AnyDeviceDeepSpeed(DeepSpeedStrategy):  # type: ignore[misc]
    """Lightning's strategy, which refuses what DeepSpeed can do well: to train on CPUs."""

    @property
    def root_device(self) -> torch.device:
        """The process's device; CPUs are numbered too, since DeepSpeed asks for the number."""
        device: torch.device = super().root_device
        return torch.device("cpu", self.local_rank) if device.type == "cpu" else device

    def setup_environment(self) -> None:
        """Form the group, as the parent does once it has found a GPU."""
        if self.root_device.type == "cuda":
            super().setup_environment()
        else:
            super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Form the group; the parent's check of GPUs' numbers has nothing to check on CPUs."""
        if self.root_device.type == "cuda":
            super().setup_distributed()
        else:
            self.set_world_ranks()
            self._init_deepspeed_distributed()

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Gradients of a loss that Lightning has divided by the accumulated passes already."""
        kwargs["scale_wrt_gas"] = False
        result: Tensor = super().backward(closure_loss, optimizer, *args, **kwargs)
        return result


@final
class ZeroPartitions(Sharing):
    """Every process holds all weights, and one part of the optimiser.

    Args:
        stage: 1 cuts the optimiser's state, 2 the gradients as well.
        batch_size: Examples per forward pass, which DeepSpeed only writes about.
    """

    def __init__(self, *, stage: int, batch_size: int) -> None:
        self._stage = stage
        self._batch_size = batch_size

    @property
    def reads_beginnings(self) -> bool:
        """Yes: the gradients of both passes meet before they are averaged."""
        return True

    def lightning(self) -> AnyDeviceDeepSpeed:
        """Lightning's strategy for the stage."""
        return AnyDeviceDeepSpeed(stage=self._stage, logging_batch_size_per_gpu=self._batch_size)

    def divide(self, model: nn.Module, mesh: Any) -> None:
        """DeepSpeed does that itself."""

    def gradient_norm(self, optimizer: Any) -> None:
        """DeepSpeed has it after the step."""

    def norm_of_last_step(self, optimizer: Any) -> float:
        """Norm of all gradients before they were clipped."""
        return float(optimizer._global_grad_norm)  # noqa: SLF001 - public at the engine only

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The float32 copies, put together."""
        return {
            name: _whole(safe_get_full_fp32_param(weight), name)
            for name, weight in learning(model).items()
        }

    def optimizer_tensors(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        """The parts of all processes, put together."""
        (step, *_) = (state["step"] for state in optimizer.optimizer.state.values())
        tensors = {}
        for name, weight in learning(model).items():
            tensors[f"optimizer.step.{name}"] = torch.as_tensor(step).clone()
            for kind in _MOMENTS:
                moment = _whole(safe_get_full_optimizer_state(weight, kind), name)
                tensors[f"optimizer.{kind}.{name}"] = moment
        return tensors

    def restore(self, model: nn.Module, optimizer: Any, tensors: Mapping[str, Tensor]) -> None:
        """Cut the tensors, and the float32 weights, into this process's part."""
        weights = learning(model)
        saved = {name: saved_of(name, tensors) for name in weights}
        steps = [state["step"] for state in saved.values() if state]
        if not steps:
            return
        inner = optimizer.optimizer
        for part in (part for group in inner.param_groups for part in group["params"]):
            inner.state[part] = {kind: torch.zeros_like(part) for kind in _MOMENTS}
            inner.state[part]["step"] = steps[0].clone()
        # DeepSpeed does this at its first step, too late for what follows.
        optimizer._lazy_init_hp_params_optimizer_state()  # noqa: SLF001
        for name, weight in weights.items():
            safe_set_full_fp32_param(weight, tensors[f"model.{name}"].to(weight.device))
            for kind in _MOMENTS:
                safe_set_full_optimizer_state(weight, saved[name][kind].to(weight.device), kind)

    def join(self, model: nn.Module) -> None:
        """Put the float32 copies in the place of the weights that DeepSpeed has computed with."""
        for name, tensor in self.weights(model).items():
            model.get_parameter(name).data = tensor


def _whole(tensor: Tensor | None, name: str) -> Tensor:
    if tensor is None:
        message = f"DeepSpeed does not know the weight {name}"
        raise RuntimeError(message)
    return tensor
