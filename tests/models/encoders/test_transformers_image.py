"""Image encoders of Transformers: joint spaces, patches and feature maps."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mllm_msr.models.encoders.transformers_image import TransformersImageEncoder


@pytest.mark.parametrize(("family", "width"), [("vit", 8), ("resnet", 8), ("clip", 6)])
def test_each_family_gives_one_vector_per_image(image_checkpoint, images, family, width):
    encoder = TransformersImageEncoder(str(image_checkpoint(family)))
    opened = [Image.open(path) for path in images]
    found = encoder.encode(opened)
    assert found.shape == (len(images), width)
    assert np.ptp(found, axis=0).max() > 1e-4
    assert np.allclose(encoder.encode(opened[1:2])[0], found[1], atol=1e-5)


def test_fingerprint_depends_on_the_weights(image_checkpoint):
    folder = image_checkpoint("vit")
    before = TransformersImageEncoder(str(folder)).fingerprint
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert TransformersImageEncoder(str(folder)).fingerprint != before
