"""Popularity: counts of training users only, recent shares, damaged files."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.baselines.popularity import Popularity
from mllm_msr.errors import DamagedFileError, SettingsError, TrainingError
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

ROWS = [
    ("a", "x", 1, 0),
    ("a", "y", 2, 1),
    ("b", "x", 3, 0),
    ("b", "z", 4, 1),
    ("test", "z", 5, 0),
    ("test", "z", 6, 1),
]


@pytest.fixture
def data():
    return TrainingData(
        interactions=pl.DataFrame(ROWS, schema=dict(INTERACTIONS), orient="row"),
        items=empty(ITEMS),
        candidates=empty(CANDIDATES),
        train_users=frozenset({"a", "b"}),
    )


def scores(model, *items):
    candidates = pl.DataFrame({"user_id": "test", "position": 2, "item_id": list(items)})
    return model.score(candidates, empty(INTERACTIONS))["score"].to_list()


def test_counts_come_from_training_users_only(data):
    assert scores(Popularity().fit(data), "x", "y", "z", "unknown") == [2.0, 1.0, 1.0, 0.0]


def test_a_recent_share_counts_the_latest_interactions(data):
    assert scores(Popularity(recent_share=0.5).fit(data), "x", "y", "z") == [1.0, 0.0, 1.0]
    assert scores(Popularity(recent_share=0.01).fit(data), "x", "y", "z") == [0.0, 0.0, 1.0]


def test_a_second_fit_starts_from_scratch(data):
    model = Popularity().fit(data)
    assert scores(model.fit(data), "x") == [2.0]


def test_all_items_score_0_without_training_users(data):
    no_users = TrainingData(data.interactions, data.items, data.candidates, frozenset())
    assert scores(Popularity(recent_share=0.5).fit(no_users), "x") == [0.0]


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_shares_out_of_range_are_rejected(share):
    with pytest.raises(SettingsError, match=rf"recent_share must be in \(0, 1\], but is {share}"):
        Popularity(recent_share=share)


def test_scoring_and_saving_before_fitting_is_rejected(tmp_path):
    with pytest.raises(TrainingError, match=r"'popularity' is not fitted\. Call fit"):
        scores(Popularity(), "x")
    with pytest.raises(TrainingError, match="is not fitted"):
        Popularity().save(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"counts": {"x": "many"}}', b"\xff"])
def test_damaged_files_are_rejected(tmp_path, content):
    if content is not None:
        (tmp_path / "popularity.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"Cannot load .*popularity\.json"):
        Popularity.load(tmp_path)
