"""VGG19, the image encoder of the paper's Table 1 (Simonyan and Zisserman 2015, column E)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from mllm_msr.models.encoders.base import Vectors
from mllm_msr.models.encoders.checkpoint import LOADING_ERRORS, unusable_encoder
from mllm_msr.models.loading import resolve_device
from mllm_msr.storage.atomic import content_hash

# Output channels of the convolutions; "M" is a max pooling that halves the image.
_LAYERS: Final = (
    *(64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M"),
    *(512, 512, 512, 512, "M", 512, 512, 512, 512, "M"),
)
_SIDE: Final = 224
_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@final
class Vgg19Encoder:
    """VGG19 up to its second dense layer, which has 4,096 units.

    Args:
        weights: A safetensors file with `features.0.weight` to `classifier.3.bias`, the names of
            torchvision's state dict; other tensors are ignored.

    Raises:
        BackendError: There is no such file.
    """

    max_side: Final = 512

    def __init__(self, weights: Path | str) -> None:
        weights = Path(weights)
        if not weights.is_file():
            raise unusable_encoder(f"vgg19:{weights}", "the file does not exist")
        self._weights = weights
        self._layers: nn.Module | None = None

    @property
    def fingerprint(self) -> str:
        """Return the weights."""
        return f"vgg19/1/{content_hash(self._weights)[0]}"

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """Encode images; the weights are loaded by the first call.

        Returns:
            Shape [n_images, 4096].

        Raises:
            BackendError: The file is not a safetensors file or lacks a layer.
        """
        device = resolve_device(None)
        if self._layers is None:
            layers = vgg19_layers()
            try:
                state = load_file(self._weights)
                layers.load_state_dict({name: state[name] for name in layers.state_dict()})
            except LOADING_ERRORS as cause:
                raise unusable_encoder(f"vgg19:{self._weights}", cause) from cause
            self._layers = layers.to(device).eval()
        with torch.inference_mode():
            # [n_images, 512, 7, 7]; the dense layers expect 7 x 7 positions.
            features = self._layers.get_submodule("features")(_imagenet_pixels(images).to(device))
            dense = self._layers.get_submodule("classifier")(features.flatten(1))
        vectors: Vectors = dense.float().cpu().numpy()
        return vectors


def vgg19_layers() -> nn.ModuleDict:
    """Build an untrained VGG19 without its last layer, with the names of its public weights."""
    layers: list[nn.Module] = []
    channels = 3
    for width in _LAYERS:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
        channels = width
    dense = (
        *(nn.Linear(channels * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(inplace=True)),
    )
    return nn.ModuleDict({"features": nn.Sequential(*layers), "classifier": nn.Sequential(*dense)})


def _imagenet_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Resize images and normalize them with ImageNet statistics, [n_images, 3, 224, 224]."""
    size = (_SIDE, _SIDE)
    pixels = np.stack([np.asarray(image.convert("RGB").resize(size)) for image in images])
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0
    mean, std = torch.tensor(_IMAGENET_MEAN), torch.tensor(_IMAGENET_STD)
    return (scaled - mean[:, None, None]) / std[:, None, None]
