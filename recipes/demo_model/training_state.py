"""Checkpoints of a training run: safetensors and JSON, no pickle.

A checkpoint is a folder `step-0000500` with the weights, their moving average, the state of the
optimizers and `state.json`. It is written under a temporary name and renamed when it is complete,
so the newest checkpoint is always readable.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save(
    folder: Path,
    step: int,
    *,
    module: nn.Module,
    average: Mapping[str, Tensor],
    optimizers: Mapping[str, torch.optim.Optimizer],
    metadata: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write a checkpoint and delete all but the newest ones.

    Args:
        folder: Folder of the run.
        step: Number of finished steps.
        module: Module whose weights are saved.
        average: Moving average of the weights.
        optimizers: Optimizers by name.
        metadata: Further values for `state.json`.
        keep: Number of checkpoints to keep.

    Returns:
        Folder of the checkpoint.
    """
    checkpoint = folder / f"step-{step:07d}"
    temporary = folder / f".{checkpoint.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(_contiguous(module.state_dict()), temporary / "weights.safetensors")
    save_file(_contiguous(average), temporary / "average.safetensors")
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    for name, optimizer in optimizers.items():
        state = {
            f"{names[parameter]}|{key}": torch.as_tensor(value)
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
        }
        save_file(_contiguous(state), temporary / f"{name}.safetensors")
    (temporary / "state.json").write_text(json.dumps({"step": step, **metadata}, indent=2))
    shutil.rmtree(checkpoint, ignore_errors=True)
    temporary.rename(checkpoint)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return checkpoint


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run, `None` if there is none."""
    found = sorted(folder.glob("step-*"))
    return found[-1] if found else None


def load(
    checkpoint: Path,
    *,
    module: nn.Module,
    average: dict[str, Tensor],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> Mapping[str, Any]:
    """Load a checkpoint into the given objects, in place.

    Args:
        checkpoint: Folder of the checkpoint.
        module: Module to load the weights into.
        average: Moving average to update.
        optimizers: Optimizers over the module's parameters, by name.

    Returns:
        The content of `state.json`: step and metadata.
    """
    module.load_state_dict(load_file(checkpoint / "weights.safetensors"))
    average.update(load_file(checkpoint / "average.safetensors"))
    parameters = dict(module.named_parameters())
    for name, optimizer in optimizers.items():
        for key, tensor in load_file(checkpoint / f"{name}.safetensors").items():
            parameter_name, _, field = key.partition("|")
            parameter = parameters[parameter_name]
            # Step counts stay on the CPU, where the optimizers expect them.
            value = tensor if field == "step" else tensor.to(parameter.device)
            optimizer.state[parameter][field] = value
    state: Mapping[str, Any] = json.loads((checkpoint / "state.json").read_text())
    return state


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
