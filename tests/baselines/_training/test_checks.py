"""Range checks of settings."""

from __future__ import annotations

from types import SimpleNamespace

from mllm_msr.baselines._training.checks import not_a_fraction, too_small


def test_values_below_one_are_reported_and_none_is_allowed():
    settings = SimpleNamespace(a=0, b=1, c=None, d=-2)
    assert too_small(settings, "a", "b", "c", "d") == [
        "a must be at least 1, but is 0.",
        "d must be at least 1, but is -2.",
    ]


def test_values_outside_zero_to_one_are_reported():
    settings = SimpleNamespace(a=0.0, b=0.99, c=1.0, d=-0.1)
    assert not_a_fraction(settings, "a", "b", "c", "d") == [
        "c must be in [0, 1), but is 1.0.",
        "d must be in [0, 1), but is -0.1.",
    ]
