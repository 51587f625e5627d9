"""The demo model as an encoder of texts."""

from __future__ import annotations

import numpy as np

from mllm_msr.models.encoders.text.demo import DemoTextEncoder


def test_the_demo_model_encodes_texts():
    encoder = DemoTextEncoder()
    vectors = encoder.encode(["golden lantern", "a calm film of a lantern"])
    assert vectors.shape == (2, 320)
    assert np.ptp(vectors, axis=0).max() > 0
    assert encoder.fingerprint == DemoTextEncoder().fingerprint
