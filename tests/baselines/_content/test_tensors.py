"""Content by item code: standardized, zero where content is missing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from mllm_msr.baselines._content.features import ContentVectors
from mllm_msr.baselines._content.tensors import (
    ReadsContent,
    content_tensors,
    fill_cold_embeddings,
    standardize,
)
from mllm_msr.baselines._training.histories import ItemCodes
from mllm_msr.errors import DataError
from mllm_msr.tables import ITEMS


def test_columns_are_centered_and_scaled_over_present_rows():
    vectors = np.array([[1, 10, 7], [3, 30, 7], [0, 0, 0]], dtype=np.float32)
    scaled = standardize(vectors)
    assert np.allclose(scaled * np.sqrt(3), [[-1, -1, 0], [1, 1, 0], [0, 0, 0]], atol=1e-5)


def test_zero_vectors_stay_zero():
    assert not standardize(np.zeros((3, 2), dtype=np.float32)).any()


def test_rows_follow_the_item_codes():
    text = np.array([[1.0], [2.0], [6.0]], dtype=np.float32)
    content = ContentVectors(("b", "a", "without code"), text, np.zeros((3, 0), dtype=np.float32))
    found = content_tensors(content, ItemCodes(("a", "b", "without content")))
    assert set(found) == {"text"}
    expected = standardize(text)[:, 0]
    assert np.allclose(found["text"][:, 0], [0.0, expected[1], expected[0], 0.0])


def test_leaving_out_all_modalities_is_rejected():
    absent = np.zeros((1, 0), dtype=np.float32)
    with pytest.raises(DataError, match=r"both 'none'\. Choose an encoder for texts or images"):
        content_tensors(ContentVectors(("a",), absent, absent), ItemCodes(("a",)))


def test_encoders_are_settings_of_the_mixin():
    items = pl.DataFrame([("a", "red boat", "", None)], schema=dict(ITEMS), orient="row")
    found = ReadsContent(image_encoder="none").content(items, ItemCodes(("a",)))
    assert set(found) == {"text"}
    assert len(found["text"]) == 2


def test_items_without_interactions_get_the_mean_embedding():
    ids = torch.nn.Parameter(torch.arange(8.0).reshape(4, 2))
    has_interactions = torch.tensor([False, True, True, False])
    fill_cold_embeddings(ids, has_interactions)
    assert ids.tolist() == [[3.0, 4.0], [2.0, 3.0], [4.0, 5.0], [3.0, 4.0]]
    fill_cold_embeddings(ids, torch.zeros(4, dtype=torch.bool))
    assert ids.isfinite().all()
