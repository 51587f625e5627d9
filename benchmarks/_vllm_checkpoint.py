"""Convert a checkpoint for vLLM's CPU build without changing the function it computes.

vLLM expects the weight names of vision towers with a level that Transformers 5.23 omits. And vLLM's
attention on CPUs supports only some head sizes. Heads of other sizes are padded with zeros, which
do not change any product; the rotary embedding is applied to the original part only. SmolVLM
becomes Idefics 3, which computes the same without the video processor that SmolVLM needs there.
Of a model with a vision tower of this package, only the language model is served.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mllm_msr.errors import DataError
from mllm_msr.models.efficientnet_lite import EfficientNetLiteConfig

# Head sizes that attention on CPUs supports in vLLM 0.32.
HEAD_SIZES: Final = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)

# Model types of SmolVLM and those of Idefics 3.
_IDEFICS: Final = {
    "architectures": ["Idefics3ForConditionalGeneration"],
    "model_type": "idefics3",
}
_TOWER: Final = "vision_tower."
_LANGUAGE: Final = "language_model."
_WEIGHTS: Final = "model.safetensors"


def convert_checkpoint(checkpoint: Path, folder: Path) -> Path:
    """Copy a checkpoint and convert it for vLLM's CPU build.

    Args:
        checkpoint: Folder of a LLaVA, LLaVA-NeXT or SmolVLM checkpoint with its weights in one
            file.
        folder: New folder.

    Returns:
        The new folder.

    Raises:
        DataError: The decoder's attention heads are larger than vLLM supports.
    """
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = {_tower_name(name): weight for name, weight in load_file(folder / _WEIGHTS).items()}
    if config.get("model_type") == "smolvlm":
        config |= _IDEFICS
        config["vision_config"]["model_type"] = "idefics3_vision"
    if config.get("vision_config", {}).get("model_type") == EfficientNetLiteConfig.model_type:
        config, weights = _language_model(config, weights)
    text = config.get("text_config", config)
    size = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    padded = _padded_size(size)
    if padded != size:
        weights = {
            name: _pad_attention(name, weight.float(), size=size, padded=padded)
            for name, weight in weights.items()
        }
        text["head_dim"] = padded
        text["rope_parameters"]["partial_rotary_factor"] = size / padded
        config["dtype"] = text["dtype"] = "float32"  # bfloat16 would round the scaled weights
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder


def _language_model(
    config: dict[str, Any], weights: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration and the weights of a multimodal model's language model."""
    text = config["text_config"] | {"architectures": ["LlamaForCausalLM"]}
    kept = {
        name.removeprefix(_LANGUAGE): weight
        for name, weight in weights.items()
        if name.startswith(_LANGUAGE)
    }
    return text, kept


def _tower_name(name: str) -> str:
    """Return the name that vLLM expects for a weight."""
    inner = name.removeprefix(_TOWER)
    if inner == name or inner.startswith("vision_model."):
        return name
    return f"{_TOWER}vision_model.{inner}"


def _padded_size(size: int) -> int:
    """Return the smallest supported head size that is at least `size`."""
    for supported in HEAD_SIZES:
        if supported >= size:
            return supported
    raise DataError(
        f"The checkpoint has attention heads of size {size}, but vLLM's CPU build supports at "
        f"most {HEAD_SIZES[-1]}. Serve the checkpoint on a GPU."
    )


def _pad_attention(name: str, weight: Tensor, *, size: int, padded: int) -> Tensor:
    """Append zeros to each head of the decoder's attention; return other weights unchanged."""
    if "vision" in name or ".self_attn." not in name:
        return weight
    layer, kind = name.split(".")[-2:]
    if layer == "o_proj":
        return weight if kind == "bias" else _pad_heads(weight.T, size, padded).T.contiguous()
    heads = _pad_heads(weight, size, padded)
    # Attention scores are divided by the square root of the head size, which is now larger.
    return heads * math.sqrt(padded / size) if layer == "q_proj" else heads


def _pad_heads(rows: Tensor, size: int, padded: int) -> Tensor:
    """Append zero rows to each head of a weight [heads * size, ...] or a bias."""
    by_head = rows.reshape(-1, size, *rows.shape[1:])  # [heads, size, ...]
    zeros = by_head.new_zeros(len(by_head), padded - size, *rows.shape[1:])
    return torch.cat([by_head, zeros], dim=1).reshape(-1, *rows.shape[1:])
