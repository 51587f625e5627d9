"""TALLRec: what it learns from, and that learning changes its answers."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.baselines.tallrec import Tallrec
from mllm_msr.errors import DamagedFileError, DataError, SettingsError, TrainingError
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

QUICK = {"batch_size": 8, "accumulate": 1, "precision": "fp32", "n_last": 1, "learning_rate": 1e-2}
TITLES = {"a": "Red lantern", "b": "Blue mountain"}


@pytest.fixture(scope="module")
def data():
    """Whatever the history, "Red lantern" comes next and "Blue mountain" does not."""
    users = [f"u{at}" for at in range(8)]
    rows = [
        (0, "train", "uniform", user, 1, item, label)
        for user in users
        for item, label in (("a", 1), ("b", 0))
    ]
    items = [(item, title, "", None) for item, title in TITLES.items()]
    steps = [(user, "b", 0, 0) for user in users]
    return TrainingData(
        pl.DataFrame(steps, schema=dict(INTERACTIONS), orient="row"),
        pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        pl.DataFrame(rows, schema=dict(CANDIDATES), orient="row"),
        frozenset(users),
    )


def test_it_learns_which_title_comes_next(data, tmp_path):
    model = Tallrec(epochs=20, dropout=0.0, **QUICK).fit(data)
    candidates = pl.DataFrame({"user_id": ["u0"] * 2, "position": [1] * 2, "item_id": ["a", "b"]})
    found = model.score(candidates, data.interactions)
    assert found["score"][0] > 0.7 > 0.3 > found["score"][1]
    model.save(tmp_path / "model")
    again = Tallrec.load(tmp_path / "model").score(candidates, data.interactions)
    assert again.equals(found)
    (tmp_path / "model" / "model.json").write_text('{"odd": 1}')
    with pytest.raises(DamagedFileError, match="a fitted model in"):
        Tallrec.load(tmp_path / "model")


def test_nothing_to_learn_from_is_refused(data):
    bare = TrainingData(data.interactions, data.items, empty(CANDIDATES), data.train_users)
    with pytest.raises(DataError, match="at least one training example"):
        Tallrec(**QUICK).fit(bare)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_last": 0}, "n_last must be at least 1, it is 0"),
        ({"max_examples": 0}, "max_examples must be at least 1"),
        ({"backend": "mock"}, "backend must be demo or huggingface, it is 'mock'"),
        ({"backend": "huggingface"}, "options must name a checkpoint"),
        ({"rank": 0}, "baselines.tallrec.rank=0: "),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(SettingsError, match=message):
        Tallrec(**arguments)


def test_scoring_before_fitting_is_refused(data):
    with pytest.raises(TrainingError, match="a fitted tallrec model"):
        Tallrec().score(data.candidates, data.interactions)
