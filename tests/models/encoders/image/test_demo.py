"""The demo model as an encoder of images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mllm_msr.models.encoders.image.demo import DemoImageEncoder
from mllm_msr.models.encoders.text.demo import DemoTextEncoder


def test_the_demo_model_encodes_images(images):
    vectors = DemoImageEncoder().encode([Image.open(path) for path in images])
    assert vectors.shape == (len(images), 320)
    assert np.ptp(vectors, axis=0).max() > 0
    assert DemoImageEncoder().fingerprint != DemoTextEncoder().fingerprint
