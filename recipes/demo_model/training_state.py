"""Checkpoints of the packaged model's training: safetensors and JSON, written whole or not at all.

A checkpoint is a folder `step-000500` with the weights, their running average, the optimisers'
state and `state.json`; it is made under another name and renamed when complete, so the newest
one can always be read.
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
    optimisers: Mapping[str, torch.optim.Optimizer],
    facts: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write a checkpoint and drop all but the newest `keep`."""
    place = folder / f"step-{step:07d}"
    half_made = folder / f".{place.name}.{os.getpid()}"
    shutil.rmtree(half_made, ignore_errors=True)
    half_made.mkdir(parents=True)
    save_file(_contiguous(module.state_dict()), half_made / "weights.safetensors")
    save_file(_contiguous(average), half_made / "average.safetensors")
    for name, optimiser in optimisers.items():
        save_file(_flat_state(optimiser, module), half_made / f"{name}.safetensors")
    (half_made / "state.json").write_text(json.dumps({"step": step, **facts}, indent=2))
    shutil.rmtree(place, ignore_errors=True)
    half_made.rename(place)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return place


def newest(folder: Path) -> Path | None:
    """The newest checkpoint, None where there is none."""
    found = sorted(folder.glob("step-*"))
    return found[-1] if found else None


def load(
    place: Path,
    *,
    module: nn.Module,
    average: dict[str, Tensor],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> Mapping[str, Any]:
    """Read a checkpoint into the given objects and return its facts."""
    module.load_state_dict(load_file(place / "weights.safetensors"))
    average.update(load_file(place / "average.safetensors"))
    for name, optimiser in optimisers.items():
        _restore(optimiser, module, load_file(place / f"{name}.safetensors"))
    facts: Mapping[str, Any] = json.loads((place / "state.json").read_text())
    return facts


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _flat_state(optimiser: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return _contiguous(
        {
            f"{names[parameter]}|{key}": torch.as_tensor(value)
            for parameter, state in optimiser.state.items()
            for key, value in state.items()
        }
    )


def _restore(
    optimiser: torch.optim.Optimizer, module: nn.Module, flat: Mapping[str, Tensor]
) -> None:
    parameters = dict(module.named_parameters())
    for key, tensor in flat.items():
        name, _, field = key.partition("|")
        parameter = parameters[name]
        value = tensor if field == "step" else tensor.to(parameter.device)
        optimiser.state[parameter][field] = value
