"""MMGCN: means over neighbors, unknown users by their histories, cold items by their content."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from mllm_msr.baselines._graphs.edges import Edges
from mllm_msr.baselines.mmgcn import MeanAggregation, Mmgcn
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import CatalogScorer, TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

WORDS = ("red apple fruit", "blue steel car")
N_USERS, N_ITEMS, N_STEPS = 20, 12, 5
# Items 10 and 11 have no interactions.
COLD = ("i10", "i11")


@pytest.fixture(scope="module")
def data():
    """Users of two tastes that the items' titles distinguish."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", step, step)
        for user in range(N_USERS)
        for step, item in enumerate(rng.permutation(np.arange(user % 2, 10, 2))[:N_STEPS])
    ]
    items = [(f"i{at}", f"{WORDS[at % 2]} {at}", "", None) for at in range(N_ITEMS)]
    return TrainingData(
        interactions=pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row"),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        candidates=empty(CANDIDATES),
        train_users=frozenset(f"u{user}" for user in range(N_USERS)),
    )


@pytest.fixture(scope="module")
def fitted(data):
    return make().fit(data)


def make(**settings):
    defaults = {
        "width": 16,
        "epochs": 30,
        "learning_rate": 0.02,
        "image_encoder": "none",
        "seed": 1,
    }
    return Mmgcn(**(defaults | settings))


def scores(model, data, user, *items, interactions=None):
    rows = pl.DataFrame(
        {"user_id": user, "position": N_STEPS, "item_id": items},
        schema_overrides={"position": pl.Int32},
    )
    known = data.interactions if interactions is None else interactions
    return model.score(rows, known)["score"].to_list()


def test_a_target_aggregates_the_mean_of_its_neighbors():
    layer = MeanAggregation(3)
    edges = Edges.between(np.array([0, 1]), np.array([0, 0]), n_sources=2, n_targets=2)
    sources = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    found = layer(edges, torch.zeros(2, 3), sources)
    assert torch.allclose(
        found[0], torch.nn.functional.leaky_relu(layer.project(sources).mean(0)), atol=1e-6
    )
    assert not found[1].any()


def test_cold_items_are_ranked_by_their_content(fitted, data):
    for user in range(4):
        own, other = scores(fitted, data, f"u{user}", *(COLD if user % 2 == 0 else COLD[::-1]))
        assert own > other


def test_an_unknown_user_is_scored_by_their_history(fitted, data):
    for taste in (0, 1):
        history = [("stranger", f"i{taste + 2 * step}", step, step) for step in range(3)]
        frame = pl.DataFrame(history, schema=dict(INTERACTIONS), orient="row")
        own, other = scores(
            fitted, data, "stranger", f"i{8 + taste}", f"i{9 - taste}", interactions=frame
        )
        assert own > other


def test_catalog_scores_equal_candidate_scores(fitted, data):
    assert isinstance(fitted, CatalogScorer)
    users = pl.DataFrame({"user_id": ["u0", "stranger"], "position": [N_STEPS, N_STEPS]})
    chunks = list(fitted.score_catalog(users, data.interactions))
    assert pl.concat([chunk for chunk, _ in chunks]).equals(users)
    found = np.concatenate([values for _, values in chunks])
    assert sorted(fitted.catalog) == sorted(f"i{at}" for at in range(N_ITEMS))
    for row, user in enumerate(users["user_id"]):
        expected = scores(fitted, data, user, *fitted.catalog)
        assert np.allclose(found[row], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"n_layers": 0}, "n_layers must be at least 1, but is 0"),
        ({"n_negatives": -1}, "n_negatives must be at least 1, but is -1"),
        ({"regularization": -0.5}, "regularization must not be negative, but is -0.5"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, but is 0.0"),
    ],
)
def test_settings_out_of_range_are_rejected(settings, problem):
    with pytest.raises(SettingsError, match=problem):
        make(**settings)
