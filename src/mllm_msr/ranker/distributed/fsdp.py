"""Fully sharded training (PyTorch FSDP2): shard weights, gradients and optimizer state.

Each decoder layer is gathered when it runs and resharded afterwards, so that models that do not
fit on one device can be trained. Frozen weights outside these layers (vision tower, projector,
embeddings under LoRA) are small in comparison and are replicated on every device, so that image
features can be cached. This module imports Lightning, so it is imported only when a run trains
with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mllm_msr.ranker.distributed.base import (
    DistributedStrategy,
    optimizer_tensors,
    saved_optimizer_tensors,
    trainable_parameters,
)
from mllm_msr.ranker.training.lora import decoder_prefix


@final
class FullySharded(DistributedStrategy):
    """Strategy in which every process has a shard of each weight.

    Args:
        devices: Devices per machine.
        nodes: Machines.
    """

    def __init__(self, *, devices: int | Literal["auto"], nodes: int) -> None:
        if devices == "auto":
            devices = max(1, torch.cuda.device_count())
        self._n_processes = devices * nodes

    @property
    def supports_prefix_sharing(self) -> bool:
        """Return False: layers are resharded between the two passes, before all gradients exist."""
        return False

    def lightning_strategy(self) -> ModelParallelStrategy:
        """Return Lightning's strategy with all devices in one dimension."""
        return ModelParallelStrategy(data_parallel_size=self._n_processes, tensor_parallel_size=1)

    def shard(self, model: nn.Module, mesh: Any) -> None:
        """Shard each decoder layer, and the other trainable weights as one more unit."""
        data_parallel = mesh["data_parallel"]
        layers = getattr(model.get_submodule(decoder_prefix(model)), "layers", [])
        for layer in layers:
            fully_shard(layer, mesh=data_parallel)
        in_layers = {id(weight) for layer in layers for weight in layer.parameters()}
        replicated = {
            weight
            for weight in model.parameters()
            if id(weight) not in in_layers and not weight.requires_grad
        }
        fully_shard(model, mesh=data_parallel, ignored_params=replicated)

    def gradient_norm_before_step(self, optimizer: Any) -> float:
        """Return the global gradient norm over all shards."""
        gradients = [w.grad for group in optimizer.param_groups for w in group["params"]]
        norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
        return float(_unsharded(norm))

    def gradient_norm_after_step(self, optimizer: Any) -> None:
        """Return `None`: the norm is known before the step."""

    def trainable_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Gather the weights; only rank 0 keeps them, because they may be large."""
        _reshard(model)
        return _gathered({name: w.data for name, w in trainable_parameters(model).items()})

    def optimizer_state(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        """Gather the optimizer state; only rank 0 keeps it."""
        _reshard(model)
        return _gathered(optimizer_tensors(model, optimizer))

    def restore_optimizer(
        self, model: nn.Module, optimizer: Any, tensors: Mapping[str, Tensor]
    ) -> None:
        """Shard the saved tensors like the weights."""
        for name, weight in trainable_parameters(model).items():
            shard: Any = weight
            saved = {
                kind: tensor
                if kind == "step"
                else distribute_tensor(
                    tensor.to(weight.device), shard.device_mesh, shard.placements
                )
                for kind, tensor in saved_optimizer_tensors(name, tensors).items()
            }
            if saved:
                optimizer.state[weight] = saved

    def gather(self, model: nn.Module) -> None:
        """Replace the shards by unsharded weights, on the CPU of rank 0."""
        _reshard(model)
        gathered: dict[nn.Parameter, nn.Parameter] = {}  # by shard, so that tied weights stay tied
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if isinstance(weight, DTensor):
                    if weight not in gathered:
                        gathered[weight] = _unsharded_parameter(weight)
                    # FSDP intercepts the assignment of attributes.
                    module._parameters[name] = gathered[weight]  # noqa: SLF001


def _unsharded_parameter(shard: nn.Parameter) -> nn.Parameter:
    """Return the unsharded parameter on rank 0, and a placeholder without data on other ranks."""
    full = _unsharded(shard.data)
    data = full.cpu() if _is_rank_zero() else torch.empty_like(full, device="meta")
    return nn.Parameter(data, requires_grad=shard.requires_grad)


def _is_rank_zero() -> bool:
    return torch.distributed.get_rank() == 0


def _unsharded(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    gathered = {}
    for name, tensor in tensors.items():
        full = _unsharded(tensor)  # collective: every rank must take part
        if _is_rank_zero():
            gathered[name] = full.detach().cpu()
    return gathered


def _reshard(model: nn.Module) -> None:
    """Reshard all units: after a forward pass without gradients, the root is still gathered."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
