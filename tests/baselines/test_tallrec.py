"""TALLRec: it learns from titles, and rejects settings that cannot be trained."""

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
    """Return data in which "Red lantern" always comes next and "Blue mountain" never does."""
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
    with pytest.raises(DamagedFileError, match="Cannot load the fitted baseline"):
        Tallrec.load(tmp_path / "model")


def test_missing_training_candidates_are_rejected(data):
    bare = TrainingData(data.interactions, data.items, empty(CANDIDATES), data.train_users)
    with pytest.raises(DataError, match="There are no training examples"):
        Tallrec(**QUICK).fit(bare)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_last": 0}, "n_last must be at least 1, but is 0"),
        ({"max_examples": 0}, "max_examples must be at least 1"),
        ({"backend": "mock"}, "backend='mock' .* has no weights to fine-tune"),
        ({"backend": "huggingface"}, "has no weights to fine-tune"),
        ({"rank": 0}, "baselines.tallrec.rank=0: "),
    ],
)
def test_invalid_settings_are_rejected(arguments, message):
    with pytest.raises(SettingsError, match=message):
        Tallrec(**arguments)


def test_scoring_before_fitting_is_rejected(data):
    with pytest.raises(TrainingError, match="'tallrec' is not fitted"):
        Tallrec().score(data.candidates, data.interactions)
