"""Tests of the section `align`."""

from __future__ import annotations

from mllm_msr.config.align_settings import AlignSettings


def test_only_settings_that_change_the_weights_identify_a_projector() -> None:
    same = AlignSettings(enabled=True, checkpoint_every=7)
    assert same.fingerprint() == AlignSettings().fingerprint() == {}
    assert AlignSettings(seed=1, epochs=0.5).fingerprint() == {"seed": 1, "epochs": 0.5}
