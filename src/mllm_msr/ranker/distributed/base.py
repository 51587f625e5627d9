"""How processes that train together share weights and optimiser: what is asked of each way.

Range `trainer.py` and Lightning's strategies. Every way takes and gives whole tensors under the
model's own names, so that a state on disk and the finished weights look the same whoever made
them, and nothing of a strategy's own files, which are pickles, is ever written or read. "DeepSpeed
with ZeRO stage 2" of the paper's implementation details is one of them (`zero.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from mllm_msr.config.settings import TrainSettings
from mllm_msr.ranker.training.lora import trainable_tensors

# What AdamW keeps of each weight.
OPTIMIZER_TENSORS: Final = ("step", "exp_avg", "exp_avg_sq")


class Sharing(ABC):
    """A way to share the work of training; abstract.

    Methods that say "by all" must be called by all processes at once, in the same order.
    """

    @property
    @abstractmethod
    def reads_beginnings(self) -> bool:
        """Whether a batch may go through the model in two passes (`beginnings`)."""

    @abstractmethod
    def lightning(self) -> Any:
        """The `strategy` of Lightning's trainer."""

    @abstractmethod
    def divide(self, model: nn.Module, mesh: Any) -> None:
        """Cut the weights into the shares of the processes, by all, before the optimiser is made.

        Args:
            model: The model that learns; changed in place.
            mesh: Lightning's device mesh, `None` for strategies that have none.
        """

    @abstractmethod
    def gradient_norm(self, optimizer: Any) -> float | None:
        """Norm of all gradients before an optimiser step, by all; `None` where it comes after."""

    @abstractmethod
    def norm_of_last_step(self, optimizer: Any) -> float | None:
        """The same after the step, `None` where it was known before."""

    @abstractmethod
    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights that learn, by name and whole, by all; only the leader need get any."""

    @abstractmethod
    def optimizer_tensors(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        """The optimiser's state as "optimizer.KIND.NAME", else as `weights`."""

    @abstractmethod
    def restore(self, model: nn.Module, optimizer: Any, tensors: Mapping[str, Tensor]) -> None:
        """Give the optimiser what a saved state holds, by all.

        Args:
            model: The model that learns, with the saved weights in it.
            optimizer: Its optimiser, as `lightning()` wraps it.
            tensors: Of the state: "model.NAME" and "optimizer.KIND.NAME".
        """

    @abstractmethod
    def join(self, model: nn.Module) -> None:
        """Give the model whole weights again when training has ended, by all.

        Only the leader's need be right.
        """


@final
class Replicas(Sharing):
    """Every process holds all weights; Lightning averages the gradients (one device, or ddp).

    Args:
        name: Lightning's name of the strategy.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def reads_beginnings(self) -> bool:
        """Yes: the gradients of both passes meet before they are averaged."""
        return True

    def lightning(self) -> str:
        """The strategy's name."""
        return self._name

    def divide(self, model: nn.Module, mesh: Any) -> None:
        """Nothing is divided."""

    def gradient_norm(self, optimizer: Any) -> float:
        """Norm of all gradients."""
        gradients = [w.grad for group in optimizer.param_groups for w in group["params"]]
        return float(torch.nn.utils.get_total_norm([g for g in gradients if g is not None]))

    def norm_of_last_step(self, optimizer: Any) -> None:
        """It was known before."""

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights that learn, sharing the model's memory."""
        return trainable_tensors(model)

    def optimizer_tensors(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        """The optimiser's own tensors."""
        return tensors_of(model, optimizer)

    def restore(self, model: nn.Module, optimizer: Any, tensors: Mapping[str, Tensor]) -> None:
        """Put the tensors where the optimiser looks for them."""
        for name, weight in learning(model).items():
            kept = {
                kind: tensor.to("cpu" if kind == "step" else weight.device)
                for kind, tensor in saved_of(name, tensors).items()
            }
            if kept:
                optimizer.state[weight] = kept

    def join(self, model: nn.Module) -> None:
        """Nothing was divided."""


def sharing_of(settings: TrainSettings) -> Sharing:
    """The way that `settings.strategy` names.

    Raises:
        MissingExtraError: DeepSpeed is not installed.
    """
    # Both import Lightning, which takes seconds.
    if settings.strategy.startswith("deepspeed"):
        from mllm_msr.ranker.distributed.deepspeed import ZeroPartitions  # noqa: PLC0415

        stage = int(settings.strategy[-1])
        return ZeroPartitions(stage=stage, batch_size=settings.batch_size)
    if settings.strategy == "fsdp":
        from mllm_msr.ranker.distributed.fsdp import FullShards  # noqa: PLC0415

        return FullShards(devices=settings.devices, nodes=settings.nodes)
    return Replicas(settings.strategy)


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def tensors_of(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """What an optimiser keeps of the parameters that learn, as `saved_of` finds it again."""
    return {
        f"optimizer.{kind}.{name}": optimizer.state[weight][kind]
        for name, weight in learning(model).items()
        for kind in OPTIMIZER_TENSORS
        if kind in optimizer.state.get(weight, {})
    }


def saved_of(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a state holds of one weight's optimiser, by kind; empty before the first step."""
    keys = {kind: f"optimizer.{kind}.{name}" for kind in OPTIMIZER_TENSORS}
    return {kind: tensors[key] for kind, key in keys.items() if key in tensors}
