"""Content by item code: standardised, zero where something is missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mllm_msr.baselines._content.features import ContentVectors
from mllm_msr.baselines._content.tensors import content_tensors, settle_unchosen, standardised
from mllm_msr.baselines._training.histories import ItemCodes
from mllm_msr.errors import DataError


def test_columns_are_centred_and_scaled_over_what_is_there():
    vectors = np.array([[1, 10, 7], [3, 30, 7], [0, 0, 0]], dtype=np.float32)
    scaled = standardised(vectors)
    assert np.allclose(scaled * np.sqrt(3), [[-1, -1, 0], [1, 1, 0], [0, 0, 0]], atol=1e-5)


def test_nothing_at_all_stays_nothing():
    assert not standardised(np.zeros((3, 2), dtype=np.float32)).any()


def test_rows_follow_the_codes():
    text = np.array([[1.0], [2.0], [6.0]], dtype=np.float32)
    content = ContentVectors(("b", "a", "stranger"), text, np.zeros((3, 0), dtype=np.float32))
    found = content_tensors(content, ItemCodes(("a", "b", "untold")))
    assert set(found) == {"text"}
    wanted = standardised(text)[:, 0]
    assert np.allclose(found["text"][:, 0], [0.0, wanted[1], wanted[0], 0.0])


def test_no_modality_at_all_is_refused():
    nothing = np.zeros((1, 0), dtype=np.float32)
    with pytest.raises(DataError, match="choose an encoder for text or image"):
        content_tensors(ContentVectors(("a",), nothing, nothing), ItemCodes(("a",)))


def test_items_that_nobody_chose_get_the_mean_id():
    ids = torch.nn.Parameter(torch.arange(8.0).reshape(4, 2))
    chosen = torch.tensor([False, True, True, False])
    settle_unchosen(ids, chosen)
    assert ids.tolist() == [[3.0, 4.0], [2.0, 3.0], [4.0, 5.0], [3.0, 4.0]]
    settle_unchosen(ids, torch.zeros(4, dtype=torch.bool))
    assert ids.isfinite().all()
