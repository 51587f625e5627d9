"""EfficientNet-Lite0, read from a PyTorch file with the layers of `efficientnet-lite-pytorch`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from mllm_msr.models.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel

# Added to the variance in all layers of EfficientNet.
_EPSILON: Final = 1e-3
# Convolutions of a block, with the normalization that follows each.
_PARTS: Final = (
    ("expand", "_expand_conv", "_bn0"),
    ("depthwise", "_depthwise_conv", "_bn1"),
    ("project", "_project_conv", "_bn2"),
)


def read_tower(path: Path, *, token_grid: int) -> EfficientNetLiteModel:
    """Read the tower without its classifier.

    Args:
        path: The file.
        token_grid: Number of rows and of columns of image tokens.

    Raises:
        KeyError: A weight is missing.
        RuntimeError: The file is damaged, or a weight has another shape.
    """
    weights = torch.load(path, map_location="cpu", weights_only=True)
    tower = EfficientNetLiteModel(EfficientNetLiteConfig(token_grid=token_grid))
    state = _fold(weights, "_conv_stem", "_bn0", "stem") | _fold(
        weights, "_conv_head", "_bn1", "head"
    )
    for number, block in enumerate(tower.blocks):
        prefix = f"_blocks.{number}."
        for name, convolution, normalization in _PARTS:
            if getattr(block, name) is not None:
                state |= _fold(
                    weights, prefix + convolution, prefix + normalization, f"blocks.{number}.{name}"
                )
    tower.load_state_dict(state)
    tower.eval()
    return tower


def _fold(
    weights: Mapping[str, Tensor], convolution: str, normalization: str, name: str
) -> dict[str, Tensor]:
    """Return the weight and the bias of a convolution that includes its normalization."""
    scale, shift, mean, variance = (
        weights[f"{normalization}.{part}"].double()
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / (variance + _EPSILON).sqrt()
    weight = weights[f"{convolution}.weight"].double() * factor[:, None, None, None]
    return {f"{name}.weight": weight.float(), f"{name}.bias": (shift - mean * factor).float()}
