"""Fitted models on disk: the same again, and one sentence for damage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from mllm_msr.baselines._shared.state import (
    State,
    load_state,
    matrix_arrays,
    matrix_names,
    matrix_of,
    save_state,
)
from mllm_msr.errors import DamagedFileError


@pytest.fixture
def matrix():
    return sparse.csr_array(np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]]))


def test_what_is_saved_is_loaded(tmp_path, matrix):
    state = State({"decay": 0.1, "seed": 3}, ("a", "ä", "日"), matrix_arrays("m", matrix))
    save_state(tmp_path, state)
    found = load_state(tmp_path, names=matrix_names("m"))
    assert (found.settings, found.catalog) == (state.settings, state.catalog)
    assert np.array_equal(matrix_of("m", found).toarray(), matrix.toarray())


def test_arrays_that_are_views_keep_their_order(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save_state(tmp_path, State({}, (), {"a": array}))
    assert np.array_equal(load_state(tmp_path, names=["a"]).arrays["a"], array)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"settings": 3, "catalog": []}'])
def test_damaged_settings_are_refused(tmp_path, content):
    save_state(tmp_path, State({}, (), {}))
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match="fit the baseline again"):
        load_state(tmp_path, names=[])


def test_missing_arrays_are_named(tmp_path):
    save_state(tmp_path, State({}, (), {}))
    with pytest.raises(DamagedFileError, match=r"files without shares"):
        load_state(tmp_path, names=["shares"])
