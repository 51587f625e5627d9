"""Distributed strategies: how weights and optimizer state are distributed over processes.

They wrap Lightning's strategies for `trainer.py`. Every strategy takes and returns unsharded
tensors under the model's own names, so that saved states and final weights do not depend on the
strategy. Lightning's own checkpoint files, which are pickles, are never written or read.
`strategies.py` creates the strategy that the settings name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from mllm_msr.ranker.training.lora import trainable_tensors

# State of AdamW for each weight.
OPTIMIZER_TENSORS: Final = ("step", "exp_avg", "exp_avg_sq")


class DistributedStrategy(ABC):
    """Base class of the strategies that distribute training over processes.

    Methods marked "collective" must be called by all processes, in the same order.
    """

    @property
    @abstractmethod
    def supports_prefix_sharing(self) -> bool:
        """Return whether a batch may go through the model in two passes (`prefix_sharing.py`)."""

    @abstractmethod
    def lightning_strategy(self) -> Any:
        """Return the `strategy` argument of Lightning's trainer."""

    @abstractmethod
    def shard(self, model: nn.Module, mesh: Any) -> None:
        """Shard the weights over the processes, before the optimizer is created; collective.

        Args:
            model: Model to train; changed in place.
            mesh: Lightning's device mesh, `None` for strategies without one.
        """

    @abstractmethod
    def gradient_norm_before_step(self, optimizer: Any) -> float | None:
        """Return the global gradient norm before an optimizer step; collective.

        `None` if the strategy knows the norm only after the step.
        """

    @abstractmethod
    def gradient_norm_after_step(self, optimizer: Any) -> float | None:
        """Return the global gradient norm after an optimizer step; `None` if known before."""

    @abstractmethod
    def trainable_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the unsharded trainable weights by name; collective, the result is for rank 0."""

    @abstractmethod
    def optimizer_state(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        """Return the unsharded optimizer state as "optimizer.KIND.NAME".

        Collective; the result is for rank 0.
        """

    @abstractmethod
    def restore_optimizer(
        self, model: nn.Module, optimizer: Any, tensors: Mapping[str, Tensor]
    ) -> None:
        """Restore the optimizer state from a saved state; collective.

        Args:
            model: Model to train, with the saved weights loaded.
            optimizer: Its optimizer, as wrapped by `lightning_strategy()`.
            tensors: Tensors of the state: "model.NAME" and "optimizer.KIND.NAME".
        """

    @abstractmethod
    def gather(self, model: nn.Module) -> None:
        """Unshard the weights of the model after training; collective, valid on rank 0 only."""


@final
class ReplicatedStrategy(DistributedStrategy):
    """Replicated weights, with gradients averaged by Lightning (one device, or DDP).

    Args:
        name: Lightning's name of the strategy.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def supports_prefix_sharing(self) -> bool:
        """Return True: gradients of both passes are added before they are averaged."""
        return True

    def lightning_strategy(self) -> str:
        """Return Lightning's name of the strategy."""
        return self._name

    def shard(self, model: nn.Module, mesh: Any) -> None:
        """Do nothing: the weights are not sharded."""

    def gradient_norm_before_step(self, optimizer: Any) -> float:
        """Return the global gradient norm."""
        gradients = [w.grad for group in optimizer.param_groups for w in group["params"]]
        return float(torch.nn.utils.get_total_norm([g for g in gradients if g is not None]))

    def gradient_norm_after_step(self, optimizer: Any) -> None:
        """Return `None`: the norm is known before the step."""

    def trainable_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the trainable weights, which share memory with the model."""
        return trainable_tensors(model)

    def optimizer_state(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        """Return the optimizer's own tensors."""
        return optimizer_tensors(model, optimizer)

    def restore_optimizer(
        self, model: nn.Module, optimizer: Any, tensors: Mapping[str, Tensor]
    ) -> None:
        """Copy the saved tensors into the optimizer."""
        for name, weight in trainable_parameters(model).items():
            saved = {
                kind: tensor.to("cpu" if kind == "step" else weight.device)
                for kind, tensor in saved_optimizer_tensors(name, tensors).items()
            }
            if saved:
                optimizer.state[weight] = saved

    def gather(self, model: nn.Module) -> None:
        """Do nothing: the weights are not sharded."""


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def optimizer_tensors(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """Return the optimizer state of the trainable parameters as "optimizer.KIND.NAME"."""
    return {
        f"optimizer.{kind}.{name}": optimizer.state[weight][kind]
        for name, weight in trainable_parameters(model).items()
        for kind in OPTIMIZER_TENSORS
        if kind in optimizer.state.get(weight, {})
    }


def saved_optimizer_tensors(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the optimizer state of one weight by kind; empty if saved before the first step."""
    keys = {kind: f"optimizer.{kind}.{name}" for kind in OPTIMIZER_TENSORS}
    return {kind: tensors[key] for kind, key in keys.items() if key in tensors}
