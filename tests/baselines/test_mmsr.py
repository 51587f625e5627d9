"""MMSR: order of the history, cold items by content, popularity as the fallback."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines._training.histories import Histories
from mllm_msr.baselines.mmsr import GraphBatches, Mmsr
from mllm_msr.errors import DamagedFileError, SettingsError
from mllm_msr.interfaces import CatalogScorer, TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

N_USERS, N_ITEMS, N_STEPS = 24, 6, 5


@pytest.fixture(scope="module")
def data():
    """Users who follow a circle of items; most start at item 0. Item 6 is cold."""
    rows = [
        (f"u{user}", f"i{(max(user - 12, 0) + step) % N_ITEMS}", step, step)
        for user in range(N_USERS)
        for step in range(N_STEPS)
    ]
    items = [(f"i{at}", f"station {'abcdefg'[at] * 4}", "", None) for at in range(N_ITEMS + 1)]
    return TrainingData(
        interactions=pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row"),
        items=pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        candidates=empty(CANDIDATES),
        train_users=frozenset(),
    )


@pytest.fixture(scope="module")
def fitted(data):
    return make().fit(data)


def make(**settings):
    defaults = {
        "width": 16,
        "epochs": 20,
        "batch_size": 48,
        "n_clusters": 3,
        "dropout": 0.0,
        "learning_rate": 0.02,
        "image_encoder": "none",
        "seed": 1,
    }
    return Mmsr(**(defaults | settings))


def history(*items):
    rows = [("someone", f"i{item}", step, step) for step, item in enumerate(items)]
    return pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")


def best(model, interactions):
    users = pl.DataFrame({"user_id": ["someone"], "position": [interactions.height]})
    ((_, values),) = model.score_catalog(users, interactions)
    return model.catalog[int(values[0].argmax())]


def test_it_learns_the_next_item_on_a_circle(fitted):
    assert isinstance(fitted, CatalogScorer)
    for last in range(N_ITEMS):
        read = history((last - 1) % N_ITEMS, last)
        assert best(fitted, read) == f"i{(last + 1) % N_ITEMS}"


def test_without_a_history_the_score_is_popularity(fitted, data):
    counts = data.interactions["item_id"].value_counts().sort("count", "item_id")
    candidates = pl.DataFrame(
        {"user_id": "unknown", "position": 0, "item_id": ["i6", *counts["item_id"]]}
    )
    found = fitted.score(candidates, empty(INTERACTIONS))["score"]
    assert found.is_sorted()
    assert found[0] == 0.0


def test_only_the_latest_items_are_read(data):
    model = make(max_length=2, epochs=1).fit(data)
    users = pl.DataFrame({"user_id": ["someone"], "position": [4]})
    one, other = (
        next(model.score_catalog(users, history(*items)))[1]
        for items in ((0, 1, 2, 3), (4, 5, 2, 3))
    )
    assert np.array_equal(one, other)


def test_the_batches_of_an_epoch_have_every_target_with_the_items_before_it():
    histories = Histories(np.array([1, 2, 3, 4, 5]), np.array([0, 3, 5]))
    batches = GraphBatches(ListsAsGraphs(), histories, np.array([2, 4, 1]), 2, 1)
    assert len(batches) == 2
    found = list(batches)
    assert [each.targets.tolist() for each in found] == [[3, 5], [2]]
    assert [each.graph for each in found] == [[[2], [4]], [[1]]]


class ListsAsGraphs:
    """Stub model whose graphs are the histories as lists."""

    def graph(self, histories):
        return [histories[at].tolist() for at in range(len(histories))]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"n_clusters": 0}, "n_clusters must be at least 1, but is 0"),
        ({"n_links": 0}, "n_links must be at least 1, but is 0"),
        ({"targets_per_user": 0}, "targets_per_user must be at least 1, but is 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), but is 1.0"),
    ],
)
def test_settings_out_of_range_are_rejected(settings, problem):
    with pytest.raises(SettingsError, match=problem):
        make(**settings)


def test_saved_state_with_another_number_of_layers_is_rejected(fitted, tmp_path):
    fitted.save(tmp_path)
    path = tmp_path / "model.json"
    path.write_text(path.read_text().replace('"n_layers": 1', '"n_layers": 2'))
    with pytest.raises(DamagedFileError, match=r"Cannot load .*Fit the baseline again"):
        Mmsr.load(tmp_path)
