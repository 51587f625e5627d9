"""Trans2D: training batches, scores of single pairs, cold items, settings."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from mllm_msr.baselines._content.content_baseline import TrainingContext
from mllm_msr.baselines._training.histories import Histories, ItemCodes
from mllm_msr.baselines._training.train import seeded
from mllm_msr.baselines.trans2d import Trans2d
from mllm_msr.errors import SettingsError
from mllm_msr.tables import INTERACTIONS

CODES = ItemCodes(tuple("abcdefgh"))
# Users with three, one and two items, not in the order of the codes.
HISTORIES = Histories(np.array([3, 1, 2, 4, 6, 5]), np.array([0, 3, 4, 6]))


def make(**settings):
    defaults = {"width": 8, "n_heads": 2, "max_length": 2, "n_negatives": 3, "batch_size": 2}
    return Trans2d(**(defaults | settings))


@pytest.fixture
def model():
    with seeded(0):
        content = {"text": torch.randn(CODES.n_codes, 4)}
        return make().build(TrainingContext(CODES, content, ("x", "y", "z"), HISTORIES))


def test_an_epoch_has_every_target_with_its_history_and_new_negatives(model):
    batches = make().training_spec(model, HISTORIES).batches(0)
    assert [len(batch.candidates) for batch in batches] == [2, 1]
    found = {}
    for batch in batches:
        histories = batch.items.split(batch.lengths.tolist())
        rows = zip(histories, batch.candidates.tolist(), strict=True)
        for history, (target, *negatives) in rows:
            found[target] = history.tolist()
            assert len(negatives) == 3
            own = {3, 1, 2} if target in {1, 2} else {6, 5}
            assert not own & set(negatives)
    assert found == {1: [3], 2: [3, 1], 5: [6]}


def test_epochs_differ_and_are_reproducible_by_seed(model):
    spec, again = (make(seed=2).training_spec(model, HISTORIES) for _ in range(2))

    def candidates(batches):
        return [batch.candidates.tolist() for batch in batches]

    assert candidates(spec.batches(1)) == candidates(again.batches(1))
    first = candidates(spec.batches(0))
    assert any(first != candidates(spec.batches(epoch)) for epoch in (1, 2, 3))


def test_the_loss_decreases_along_its_gradient(model):
    model.network.eval()
    spec = make().training_spec(model, HISTORIES)
    (batch, *_) = spec.batches(0)
    before = spec.loss(batch)
    before.backward()
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.sub_(0.01 * weight.grad)
    assert spec.loss(batch) < before


def test_every_candidate_gets_the_score_of_its_own_pair(model):
    model.network.eval()
    model.update_item_embeddings()
    rows = [("x", "a", 0, 0), ("x", "b", 1, 1), ("x", "c", 2, 2), ("y", "d", 0, 0)]
    interactions = pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")
    pairs = [("x", 3, "a"), ("y", 1, "b"), ("x", 3, "h"), ("unknown", 0, "a"), ("x", 1, "a")]
    candidates = pl.DataFrame(pairs, schema=["user_id", "position", "item_id"], orient="row")
    found = model.scores(candidates, interactions)
    table = model.network.token_table()
    histories = [[2, 3], [4], [2, 3], [], [1]]
    for score, history, item in zip(found, histories, [1, 2, 8, 1, 1], strict=True):
        given = torch.tensor(history, dtype=torch.int64), torch.tensor([len(history)])
        expected = model.network(*given, torch.tensor([[item]]), table).item()
        assert score == pytest.approx(expected, abs=1e-5)
    assert len(set(found.round(6))) == 5


def test_items_without_interactions_get_the_mean_id_embedding(model):
    model.finalize()
    ids = model.network.item_ids
    assert torch.allclose(ids[8], ids[1:7].mean(0), atol=1e-6)
    assert torch.equal(ids[7], ids[0])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"n_heads": 3}, r"n_heads must divide width \(8\), but is 3"),
        ({"n_heads": 0}, "n_heads must be at least 1, but is 0"),
        ({"max_length": 0}, "max_length must be at least 1, but is 0"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), but is -0.1"),
    ],
)
def test_settings_out_of_range_are_rejected(settings, problem):
    with pytest.raises(SettingsError, match=problem):
        make(**settings)
