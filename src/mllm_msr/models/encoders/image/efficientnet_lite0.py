"""EfficientNet-Lite0, trained on ImageNet (extra `small`): it sees what an image shows.

`colors` only sees how an image looks. The weights are a part of a package, so that neither a model
hub nor a GPU is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import numpy as np
import torch
from PIL import Image

from mllm_msr.models.efficientnet_lite import EfficientNetLiteModel
from mllm_msr.models.encoders.base import Vectors
from mllm_msr.models.encoders.checkpoint import LOADING_ERRORS, unusable_encoder
from mllm_msr.models.encoders.packages import package_file
from mllm_msr.models.loading import resolve_device
from mllm_msr.models.small.sources import VISION
from mllm_msr.models.small.vision import read_tower

_NAME: Final = "efficientnet-lite0"
_SIDE: Final = 224


@final
class EfficientNetLite0Encoder:
    """The mean of the last features over all positions of an image.

    Raises:
        BackendError: The package with the weights is not installed.
    """

    max_side: Final = 512

    def __init__(self) -> None:
        self._file = package_file(_NAME, VISION)
        self._tower: EfficientNetLiteModel | None = None

    @property
    def fingerprint(self) -> str:
        """Return the weights and the pooling."""
        return f"{_NAME}/1/{VISION.sha256}"

    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """Encode images; the weights are loaded by the first call.

        Returns:
            Shape [n_images, 1280].

        Raises:
            BackendError: The weights cannot be loaded.
        """
        if self._tower is None:
            try:
                self._tower = read_tower(self._file, token_grid=1).to(resolve_device(None))
            except LOADING_ERRORS as cause:
                raise unusable_encoder(_NAME, cause) from cause
        with torch.inference_mode():
            pooled = self._tower(_pixels(images).to(self._tower.device)).pooler_output
        vectors: Vectors = pooled.float().cpu().numpy()
        return vectors


def _pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    """Resize images without a crop and normalize them to [-1, 1]: [n_images, 3, 224, 224]."""
    size = (_SIDE, _SIDE)
    arrays = [
        np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)) for image in images
    ]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float()
    return (pixels - 127.0) / 128.0
