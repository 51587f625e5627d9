"""Saved state of fitted models: round trip, and clear errors for damage."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_msr.baselines._shared.state import (
    State,
    damaged,
    load_state,
    save_state,
)
from mllm_msr.errors import DamagedFileError


def test_a_saved_state_is_loaded_unchanged(tmp_path):
    weights = np.array([2.0, 0.5])
    state = State({"decay": 0.1, "seed": 3}, ("a", "ä", "日"), {"weights": weights})
    save_state(tmp_path, state)
    found = load_state(tmp_path, names=["weights"])
    assert (found.settings, found.catalog) == (state.settings, state.catalog)
    assert np.array_equal(found.arrays["weights"], weights)


def test_non_contiguous_arrays_keep_their_values(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save_state(tmp_path, State({}, (), {"a": array}))
    assert np.array_equal(load_state(tmp_path, names=["a"]).arrays["a"], array)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"settings": 3, "catalog": []}'])
def test_damaged_settings_are_rejected(tmp_path, content):
    save_state(tmp_path, State({}, (), {}))
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"Cannot load .*Fit the baseline again"):
        load_state(tmp_path, names=[])


def test_missing_arrays_are_named(tmp_path):
    save_state(tmp_path, State({}, (), {}))
    with pytest.raises(DamagedFileError, match="lacks shares"):
        load_state(tmp_path, names=["shares"])


def test_an_error_without_a_cause_is_readable(tmp_path):
    assert str(damaged(tmp_path, "")).endswith(": unknown cause. Fit the baseline again.")
