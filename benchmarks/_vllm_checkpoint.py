"""A checkpoint as vLLM's build for CPUs reads it: the same function, other names and head sizes.

Transformers 5.23 leaves a level out of the names of a vision tower's weights, under which vLLM
looks for them. And vLLM's attention on a CPU knows few sizes of heads: others are filled up with
zeros, which adds nothing to any product, and their rotary embedding goes on turning the part that
it turned before.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mllm_msr.errors import DataError

# What vLLM 0.32 lists for its attention on CPUs.
HEAD_SIZES: Final = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)

_TOWER: Final = "vision_tower."
_WEIGHTS: Final = "model.safetensors"


def readable(checkpoint: Path, folder: Path) -> Path:
    """Copy a checkpoint into a form that vLLM's build for CPUs serves.

    Args:
        checkpoint: Folder of a LLaVA or LLaVA-NeXT with its weights in one file.
        folder: New folder.

    Returns:
        That folder.

    Raises:
        DataError: The decoder's heads are larger than any that vLLM knows.
    """
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = {_name(name): weight for name, weight in load_file(folder / _WEIGHTS).items()}
    text = config["text_config"]
    heads = text["num_attention_heads"]
    size = text.get("head_dim") or text["hidden_size"] // heads
    wide = _wide(size)
    if wide != size:
        weights = {
            name: _widened(name, weight.float(), size=size, wide=wide)
            for name, weight in weights.items()
        }
        text["head_dim"] = wide
        text["rope_parameters"]["partial_rotary_factor"] = size / wide
        config["dtype"] = text["dtype"] = "float32"  # scaled weights would be rounded again
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder


def _name(name: str) -> str:
    inner = name.removeprefix(_TOWER)
    if inner == name or inner.startswith("vision_model."):
        return name
    return f"{_TOWER}vision_model.{inner}"


def _wide(size: int) -> int:
    for known in HEAD_SIZES:
        if known >= size:
            return known
    raise DataError(
        needed=f"heads of at most {HEAD_SIZES[-1]} numbers, for vLLM on a CPU",
        received=f"a checkpoint with heads of {size}",
        remedy="serve it on a GPU",
    )


def _widened(name: str, weight: Tensor, *, size: int, wide: int) -> Tensor:
    """A weight of the decoder's attention with zeros after each head; any other as it is."""
    if name.startswith(_TOWER) or ".self_attn." not in name:
        return weight
    layer, kind = name.split(".")[-2:]
    if layer == "o_proj":
        return weight if kind == "bias" else _filled(weight.T, size, wide).T.contiguous()
    filled = _filled(weight, size, wide)
    # Scores are divided by the square root of the size of a head, which has grown.
    return filled * math.sqrt(wide / size) if layer == "q_proj" else filled


def _filled(rows: Tensor, size: int, wide: int) -> Tensor:
    """Rows of heads, or a bias, with zero rows after each head."""
    by_head = rows.reshape(-1, size, *rows.shape[1:])  # [heads, size, ...]
    zeros = by_head.new_zeros(len(by_head), wide - size, *rows.shape[1:])
    return torch.cat([by_head, zeros], dim=1).reshape(-1, *rows.shape[1:])
