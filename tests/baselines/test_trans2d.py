"""Trans2D: histories beside their candidates, scores that depend on a pair alone, settings."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from mllm_msr.baselines._content.recommender import TrainingContext
from mllm_msr.baselines._training.histories import Histories, ItemCodes
from mllm_msr.baselines._training.train import seeded
from mllm_msr.baselines.trans2d import Trans2d
from mllm_msr.errors import SettingsError
from mllm_msr.tables import INTERACTIONS

CODES = ItemCodes(tuple("abcdefgh"))
# Users of three, one and two items, not in the order of their codes.
HISTORIES = Histories(np.array([3, 1, 2, 4, 6, 5]), np.array([0, 3, 4, 6]))


def make(**settings):
    given = {"width": 8, "n_heads": 2, "max_length": 2, "n_negatives": 3, "batch_size": 2}
    return Trans2d(**(given | settings))


@pytest.fixture
def model():
    with seeded(0):
        content = {"text": torch.randn(CODES.n_codes, 4)}
        return make().build(TrainingContext(CODES, content, ("x", "y", "z"), HISTORIES))


def test_an_epoch_holds_every_target_with_its_history_and_new_items(model):
    batches = make().course(model, HISTORIES).batches(0)
    assert [len(batch.candidates) for batch in batches] == [2, 1]
    found = {}
    for batch in batches:
        read = batch.items.split(batch.lengths.tolist())
        for row, (target, *drawn) in zip(read, batch.candidates.tolist(), strict=True):
            found[target] = row.tolist()
            assert len(drawn) == 3
            own = {3, 1, 2} if target in {1, 2} else {6, 5}
            assert not own & set(drawn)
    assert found == {1: [3], 2: [3, 1], 5: [6]}


def test_epochs_differ_and_repeat_by_seed(model):
    course, again = (make(seed=2).course(model, HISTORIES) for _ in range(2))

    def drawn(batches):
        return [batch.candidates.tolist() for batch in batches]

    assert drawn(course.batches(1)) == drawn(again.batches(1))
    assert any(drawn(course.batches(0)) != drawn(course.batches(at)) for at in (1, 2, 3))


def test_the_loss_falls_when_targets_score_higher(model):
    model.network.eval()
    course = make().course(model, HISTORIES)
    (batch, *_) = course.batches(0)
    before = course.loss(batch)
    before.backward()
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.sub_(0.01 * weight.grad)
    assert course.loss(batch) < before


def test_every_row_gets_the_score_of_its_own_pair(model):
    model.network.eval()
    model.update_item_embeddings()
    rows = [("x", "a", 0, 0), ("x", "b", 1, 1), ("x", "c", 2, 2), ("y", "d", 0, 0)]
    interactions = pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")
    asked = [("x", 3, "a"), ("y", 1, "b"), ("x", 3, "h"), ("nobody", 0, "a"), ("x", 1, "a")]
    candidates = pl.DataFrame(asked, schema=["user_id", "position", "item_id"], orient="row")
    found = model.scores(candidates, interactions)
    table = model.network.token_table()
    histories = [[2, 3], [4], [2, 3], [], [1]]
    for score, read, item in zip(found, histories, [1, 2, 8, 1, 1], strict=True):
        given = torch.tensor(read, dtype=torch.int64), torch.tensor([len(read)])
        wanted = model.network(*given, torch.tensor([[item]]), table).item()
        assert score == pytest.approx(wanted, abs=1e-5)
    assert len(set(found.round(6))) == 5


def test_items_that_nobody_chose_get_the_mean_id(model):
    model.finalize()
    ids = model.network.item_ids
    assert torch.allclose(ids[8], ids[1:7].mean(0), atol=1e-6)
    assert torch.equal(ids[7], ids[0])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"n_heads": 3}, "n_heads must divide width, they are 3 and 8"),
        ({"n_heads": 0}, "n_heads must be at least 1, it is 0"),
        ({"max_length": 0}, "max_length must be at least 1, it is 0"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\), it is -0.1"),
    ],
)
def test_bad_settings_are_refused_with_one_sentence(settings, problem):
    with pytest.raises(SettingsError, match=problem):
        make(**settings)
