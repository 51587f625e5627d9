"""Scoring with a sequence model whose network counts what it has read."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from mllm_msr.baselines._sequences.sequence_model import SequenceModel, SequenceNetwork
from mllm_msr.baselines._training.histories import ItemCodes
from mllm_msr.tables import INTERACTIONS


class LastItem(SequenceNetwork):
    """The state is the one-hot code of the last item; the vector of item i is i times one-hot."""

    n_codes = 4

    def forward(self, batch):
        return torch.eye(self.n_codes)[batch.items]

    def table(self):
        return torch.diag(torch.arange(float(self.n_codes)))


@pytest.fixture
def model():
    return SequenceModel(
        LastItem(),
        ItemCodes(("a", "b", "c")),
        n_warm=3,
        catalog=("a", "b", "c", "cold"),
        counts=torch.tensor([0.0, 5.0, 1.0, 2.0]),
        max_length=2,
    )


@pytest.fixture
def interactions():
    rows = [("u", "a", 0, 0), ("u", "b", 1, 1), ("u", "c", 2, 2), ("v", "strange", 0, 0)]
    return pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")


def test_candidates_are_scored_by_the_state_before_their_position(model, interactions):
    candidates = pl.DataFrame(
        {"user_id": "u", "position": [3, 3, 2, 1], "item_id": ["c", "b", "b", "a"]}
    )
    scores = model.pair_scores(model.pairs(candidates, interactions))
    assert scores.tolist() == [3.0, 0.0, 2.0, 1.0]


def test_without_a_known_item_the_score_is_popularity(model, interactions):
    candidates = pl.DataFrame(
        {"user_id": ["u", "v", "unknown"], "position": [0, 5, 9], "item_id": ["a", "b", "strange"]}
    )
    scores = model.pair_scores(model.pairs(candidates, interactions))
    assert scores == pytest.approx(np.log1p([5, 1, 0]))


def test_catalog_scores_equal_candidate_scores(model, interactions):
    users = pl.DataFrame({"user_id": ["u", "unknown"], "position": [2, 0]})
    ((chunk, values),) = model.catalog_scores(users, interactions)
    assert chunk.equals(users)
    candidates = users.join(pl.DataFrame({"item_id": model.catalog}), how="cross")
    expected = model.pair_scores(model.pairs(candidates, interactions))
    assert values.ravel() == pytest.approx(expected)


def test_only_the_latest_items_are_read(model, interactions):
    candidates = pl.DataFrame({"user_id": ["u"], "position": [3], "item_id": ["a"]})
    assert model.pairs(candidates, interactions).histories.lengths.tolist() == [2]
