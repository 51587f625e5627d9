"""Inner-product models: candidate scores, catalog scores, chunks."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from mllm_msr.baselines._content import vector_baseline
from mllm_msr.baselines._content.vector_baseline import VectorModel
from mllm_msr.baselines._training.histories import ItemCodes
from mllm_msr.tables import INTERACTIONS, empty

USERS = {"u": (1.0, 0.0), "v": (0.0, 2.0)}
ITEMS = np.array([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]], dtype=np.float32)


class FixedVectors(VectorModel):
    """Vectors from tables; the unknown item has the vector of code 0."""

    def __init__(self):
        super().__init__(torch.nn.Module(), ItemCodes(("a", "b")), {})

    def finalize(self):
        pass

    def update_item_embeddings(self):
        pass

    def arrays(self):
        return {}

    def item_vectors(self):
        return ITEMS

    def user_vectors(self, targets, interactions):
        return np.array([USERS[user] for user in targets["user_id"]], dtype=np.float32)


@pytest.fixture(params=[1, 2, 1024])
def model(request, monkeypatch):
    monkeypatch.setattr(vector_baseline, "_CHUNK", request.param)
    return FixedVectors()


def test_candidate_scores_are_inner_products(model):
    candidates = pl.DataFrame(
        {"user_id": ["u", "v", "u"], "position": 1, "item_id": ["b", "a", "unknown"]}
    )
    assert model.scores(candidates, empty(INTERACTIONS)).tolist() == [3.0, 4.0, 9.0]
    assert model.scores(candidates[:0], empty(INTERACTIONS)).shape == (0,)


def test_catalog_scores_are_inner_products_without_the_unknown_item(model):
    users = pl.DataFrame({"user_id": ["v", "u", "v"], "position": [0, 1, 2]})
    chunks = list(model.catalog_scores(users, empty(INTERACTIONS)))
    assert pl.concat([chunk for chunk, _ in chunks]).equals(users)
    scores = np.concatenate([values for _, values in chunks])
    assert scores.tolist() == [[4.0, 8.0], [1.0, 3.0], [4.0, 8.0]]
