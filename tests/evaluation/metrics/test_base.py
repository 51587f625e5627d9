"""Base class: a metric is a frozen value with a cut-off."""

from __future__ import annotations

import dataclasses

import pytest

from mllm_msr.evaluation.metrics._base import Metric
from mllm_msr.evaluation.metrics.hr import HitRate


def test_the_base_class_cannot_be_used_alone():
    with pytest.raises(TypeError, match="abstract"):
        Metric()


def test_metrics_with_equal_cut_offs_are_equal_and_immutable():
    assert HitRate(5) == HitRate(5) != HitRate(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        HitRate(5).k = 3
