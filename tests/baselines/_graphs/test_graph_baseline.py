"""The base of MMGCN and MGAT, tested with MMGCN: negatives, fold-in of users, saved state."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from mllm_msr.baselines._content.content_baseline import TrainingContext
from mllm_msr.baselines._shared.state import State
from mllm_msr.baselines._training.histories import Histories, ItemCodes
from mllm_msr.baselines._training.train import seeded
from mllm_msr.baselines.mmgcn import Mmgcn
from mllm_msr.tables import INTERACTIONS

CODES = ItemCodes(tuple("abcde"))
# Users x and y; item e (code 5) has no interactions.
HISTORIES = Histories(np.array([1, 2, 2, 3, 4]), np.array([0, 3, 5]))
INTERACTION_ROWS = [("x", "a", 0, 0), ("x", "b", 1, 1), ("x", "b", 2, 2), ("y", "c", 3, 0)]


@pytest.fixture
def baseline():
    return Mmgcn(width=4, n_negatives=2, batch_size=3, regularization=0.0)


@pytest.fixture
def model(baseline):
    with seeded(0):
        content = {"text": torch.randn(CODES.n_codes, 3)}
        fitted = baseline.build(TrainingContext(CODES, content, ("x", "y"), HISTORIES))
    fitted.update_item_embeddings()
    return fitted


@pytest.fixture
def interactions():
    return pl.DataFrame(INTERACTION_ROWS, schema=dict(INTERACTIONS), orient="row")


def test_an_epoch_has_every_pair_once_with_negatives_new_to_the_user(baseline, model):
    rows = torch.cat(baseline.training_spec(model, HISTORIES).batches(0)).tolist()
    assert sorted((user, item) for user, item, *_ in rows) == [(0, 1), (0, 2), (1, 3), (1, 4)]
    own = [{1, 2}, {3, 4}]
    assert all(not own[user] & set(negatives) for user, _, *negatives in rows)


def test_items_without_interactions_are_never_negatives(baseline, model):
    spec = baseline.training_spec(model, HISTORIES)
    batches = [batch for epoch in range(20) for batch in spec.batches(epoch)]
    negatives = torch.cat([batch[:, 2:].flatten() for batch in batches])
    assert negatives.unique().tolist() == [1, 2, 3, 4]


def test_regularization_increases_the_loss(model):
    plain, regularized = (
        Mmgcn(width=4, n_negatives=2, regularization=weight).training_spec(model, HISTORIES)
        for weight in (0.0, 0.5)
    )
    batch = plain.batches(0)[0]
    difference = regularized.loss(batch) - plain.loss(batch)
    penalty = model.network.l2_penalty(batch[:, 0], batch[:, 1:]) / len(batch)
    assert torch.allclose(difference, 0.5 * penalty, atol=1e-5)


def test_users_are_folded_in_by_the_history_before_the_target(model, interactions):
    targets = pl.DataFrame({"user_id": ["x", "x", "stranger"], "position": [3, 1, 0]})
    whole, first, stranger = model.user_vectors(targets, interactions)
    users, _ = model.network(model._graph)
    assert np.allclose(whole, users[0].detach().numpy(), atol=1e-6)
    assert not np.allclose(whole, first, atol=1e-4)
    assert np.isfinite(stranger).all()


def test_a_restored_model_scores_with_the_saved_item_states(baseline, model):
    state = State({}, CODES.item_ids, model.arrays())
    restored = baseline.restore(state, CODES, model.content)
    restored.update_item_embeddings()
    assert np.array_equal(restored.item_vectors(), model.item_vectors())
