"""Scaling of vectors to unit length."""

from __future__ import annotations

import numpy as np

from mllm_msr.models.encoders.base import unit_rows


def test_rows_get_unit_length_and_keep_their_direction():
    vectors = np.array([[3.0, 4.0], [-0.5, 0.0]], dtype=np.float32)
    unit = unit_rows(vectors)
    assert unit.dtype == np.float32
    assert np.allclose(unit, [[0.6, 0.8], [-1.0, 0.0]])


def test_negligible_rows_become_zero_rows():
    vectors = np.array([[0.0, 0.0], [1e-8, 1e-8]], dtype=np.float32)
    assert not unit_rows(vectors).any()
    assert unit_rows(np.zeros((0, 3), dtype=np.float32)).shape == (0, 3)
