"""Histories and interactions as sparse matrices; packing of matrices into arrays."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from mllm_msr.baselines._shared.catalog import CHUNK
from mllm_msr.baselines._shared.sparse_matrices import (
    history_matrix,
    in_chunks,
    interaction_matrix,
    pack_matrix,
    packed_names,
    unpack_matrix,
)
from mllm_msr.baselines._shared.state import State, load_state, save_state
from mllm_msr.tables import INTERACTIONS

ROWS = [("a", "x", 1, 0), ("a", "y", 2, 1), ("a", "z", 3, 2), ("b", "y", 4, 0), ("b", "y", 5, 1)]


@pytest.fixture
def interactions():
    return pl.DataFrame(ROWS, schema=dict(INTERACTIONS), orient="row")


def targets(*pairs):
    return pl.DataFrame(pairs, schema={"user_id": pl.String, "position": pl.Int32}, orient="row")


def test_weights_decay_with_age_and_add_up_for_repeated_items(interactions):
    found = history_matrix(targets(("a", 3), ("b", 2)), interactions, ["y", "x"], decay=0.5)
    assert found.toarray().tolist() == [[0.5, 0.25], [1.5, 0.0]]


def test_repeated_interactions_count_once_in_the_interaction_matrix(interactions):
    found = interaction_matrix(interactions, ["x", "y", "z"])
    assert found.toarray().tolist() == [[1, 1, 1], [0, 1, 0]]


def test_more_targets_than_a_chunk_keep_their_histories():
    n = CHUNK + 3
    interactions = pl.DataFrame(
        {
            "user_id": [f"u{at}" for at in range(n)],
            "item_id": ["x", "y"] * (n // 2) + ["x"] * (n % 2),
        }
    ).with_columns(timestamp=pl.lit(0), position=pl.lit(0))
    found = history_matrix(targets(*((f"u{at}", 1) for at in range(n))), interactions, ["x", "y"])
    assert found.toarray()[:, 0].tolist() == [1.0 - at % 2 for at in range(n - 1)] + [1.0]
    parts = list(in_chunks(targets(*((f"u{at}", 1) for at in range(n))), found))
    assert [(chunk.height, rows.shape[0]) for chunk, rows in parts] == [(CHUNK, CHUNK), (3, 3)]


def test_a_saved_matrix_is_loaded_unchanged(tmp_path):
    matrix = sparse.csr_array(np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]]))
    save_state(tmp_path, State({}, ("a", "b", "c"), pack_matrix("m", matrix)))
    found = unpack_matrix("m", load_state(tmp_path, names=packed_names("m")))
    assert np.array_equal(found.toarray(), matrix.toarray())
