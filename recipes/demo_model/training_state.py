"""Checkpoints of a training run of the demo model, in the format of the ranker's training states.

`mllm_msr.ranker.training.checkpoint` writes the files; this module collects and restores the
weights, their moving average and the state of several optimizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mllm_msr.ranker.training.checkpoint import TrainingState, load_newest, save_state


def save(
    folder: Path,
    step: int,
    *,
    module: nn.Module,
    average: Mapping[str, Tensor],
    optimizers: Mapping[str, torch.optim.Optimizer],
    metadata: Mapping[str, Any],
) -> Path:
    """Write a checkpoint and delete all but the newest two.

    Args:
        folder: Folder of the run.
        step: Number of finished steps.
        module: Module whose weights are saved.
        average: Moving average of the weights.
        optimizers: Optimizers over the module's parameters, by name.
        metadata: JSON-serializable values to save with the tensors.

    Returns:
        Folder of the checkpoint.

    Raises:
        NonFiniteLossError: A tensor contains NaN or infinity; nothing is written.
    """
    tensors = {f"model.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    for optimizer_name, optimizer in optimizers.items():
        tensors |= {
            f"optimizer.{optimizer_name}.{names[parameter]}|{field}": torch.as_tensor(value)
            for parameter, values in optimizer.state.items()
            for field, value in values.items()
        }
    return save_state(folder, TrainingState(step, tensors, metadata, progress={}))


def load(
    folder: Path,
    *,
    module: nn.Module,
    average: dict[str, Tensor],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> TrainingState | None:
    """Load the newest intact checkpoint of a run into the given objects, in place.

    Args:
        folder: Folder of the run.
        module: Module to load the weights into.
        average: Moving average to update.
        optimizers: Optimizers over the module's parameters, by name.

    Returns:
        The checkpoint, `None` if there is none.
    """
    state = load_newest(folder)
    if state is None:
        return None
    module.load_state_dict(state.part("model."))
    average.update(state.part("average."))
    parameters = dict(module.named_parameters())
    for optimizer_name, optimizer in optimizers.items():
        for key, tensor in state.part(f"optimizer.{optimizer_name}.").items():
            parameter_name, _, field = key.partition("|")
            parameter = parameters[parameter_name]
            # Step counts stay on the CPU, where the optimizers expect them.
            value = tensor if field == "step" else tensor.to(parameter.device)
            optimizer.state[parameter][field] = value
    return state
