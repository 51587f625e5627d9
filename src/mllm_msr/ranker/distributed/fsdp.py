"""Full sharding (PyTorch's FSDP2): weights, gradients and optimiser are cut among the processes.

Each layer of the decoder is put together when its turn comes and cut again after it, so that a
model that no device could hold alone can be trained. What is frozen outside those layers (vision
tower, projector, embeddings under LoRA) is small beside them and stays whole on every device,
which lets the features of images be cached. Imported only where a training asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mllm_msr.ranker.distributed.base import Sharing, learning, saved_of, tensors_of
from mllm_msr.ranker.training.lora import decoder_prefix


@final
class FullShards(Sharing):
    """Every process holds one part of each weight.

    Args:
        devices: Devices per machine.
        nodes: Machines.
    """

    def __init__(self, *, devices: int | Literal["auto"], nodes: int) -> None:
        if devices == "auto":
            devices = max(1, torch.cuda.device_count())
        self._n_processes = devices * nodes

    @property
    def reads_beginnings(self) -> bool:
        """No: a layer is cut again between its two passes, and its keys' gradients come later."""
        return False

    def lightning(self) -> ModelParallelStrategy:
        """Lightning's strategy, all devices in one dimension."""
        return ModelParallelStrategy(data_parallel_size=self._n_processes, tensor_parallel_size=1)

    def divide(self, model: nn.Module, mesh: Any) -> None:
        """Cut the decoder's layers, and what learns outside of them as one more unit."""
        along = mesh["data_parallel"]
        layers = getattr(model.get_submodule(decoder_prefix(model)), "layers", [])
        for layer in layers:
            fully_shard(layer, mesh=along)
        inside = {id(weight) for layer in layers for weight in layer.parameters()}
        whole = {
            weight
            for weight in model.parameters()
            if id(weight) not in inside and not weight.requires_grad
        }
        fully_shard(model, mesh=along, ignored_params=whole)

    def gradient_norm(self, optimizer: Any) -> float:
        """Norm of all gradients, over all parts."""
        gradients = [w.grad for group in optimizer.param_groups for w in group["params"]]
        norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
        return float(_whole(norm))

    def norm_of_last_step(self, optimizer: Any) -> None:
        """It was known before."""

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The parts put together; on the leader alone, since they may be many."""
        _cut_again(model)
        return _gathered({name: weight.data for name, weight in learning(model).items()})

    def optimizer_tensors(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        """The parts put together, as `weights`."""
        _cut_again(model)
        return _gathered(tensors_of(model, optimizer))

    def restore(self, model: nn.Module, optimizer: Any, tensors: Mapping[str, Tensor]) -> None:
        """Cut the tensors as the weights are cut."""
        for name, weight in learning(model).items():
            part: Any = weight
            kept = {
                kind: tensor
                if kind == "step"
                else distribute_tensor(tensor.to(weight.device), part.device_mesh, part.placements)
                for kind, tensor in saved_of(name, tensors).items()
            }
            if kept:
                optimizer.state[weight] = kept

    def join(self, model: nn.Module) -> None:
        """Put whole weights in the place of the parts, on the leader's CPU."""
        _cut_again(model)
        joined: dict[nn.Parameter, nn.Parameter] = {}  # by part: tied weights stay tied
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if isinstance(weight, DTensor):
                    if weight not in joined:
                        joined[weight] = _joined(weight)
                    # Not by assignment, which FSDP watches.
                    module._parameters[name] = joined[weight]  # noqa: SLF001


def _joined(part: nn.Parameter) -> nn.Parameter:
    whole = _whole(part.data)
    kept = whole.cpu() if _leads() else torch.empty_like(whole, device="meta")
    return nn.Parameter(kept, requires_grad=part.requires_grad)


def _leads() -> bool:
    return torch.distributed.get_rank() == 0


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept = {}
    for name, tensor in tensors.items():
        whole = _whole(tensor)
        if _leads():
            kept[name] = whole.detach().cpu()
    return kept


def _cut_again(model: nn.Module) -> None:
    """After a pass without gradients the outermost unit is still whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
