"""The demo model as an encoder of texts and images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mllm_msr.models.encoders.demo import DemoImageEncoder, DemoTextEncoder


def test_the_demo_model_encodes_texts():
    encoder = DemoTextEncoder()
    vectors = encoder.encode(["golden lantern", "a calm film of a lantern"])
    assert vectors.shape == (2, 320)
    assert np.ptp(vectors, axis=0).max() > 0
    assert encoder.fingerprint == DemoTextEncoder().fingerprint


def test_the_demo_model_encodes_images(images):
    vectors = DemoImageEncoder().encode([Image.open(path) for path in images])
    assert vectors.shape == (len(images), 320)
    assert np.ptp(vectors, axis=0).max() > 0
    assert DemoImageEncoder().fingerprint != DemoTextEncoder().fingerprint
