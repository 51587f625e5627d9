"""Transitions against probabilities computed by hand."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.baselines.transitions import Transitions
from mllm_msr.errors import DamagedFileError, SettingsError, TrainingError
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

# y follows x twice, z follows x once; the last item of a does not lead to the first item of b.
ROWS = [
    *(("a", "x", 0, 0), ("a", "y", 1, 1), ("a", "x", 2, 2), ("a", "z", 3, 3)),
    *(("b", "x", 0, 0), ("b", "y", 1, 1)),
]


@pytest.fixture
def data():
    interactions = pl.DataFrame(ROWS, schema=dict(INTERACTIONS), orient="row").reverse()
    return TrainingData(interactions, empty(ITEMS), empty(CANDIDATES), frozenset("ab"))


def scores(model, data, user, position, *items):
    candidates = pl.DataFrame({"user_id": user, "position": position, "item_id": list(items)})
    return model.score(candidates, data.interactions)["score"].to_list()


def test_probabilities_are_smoothed_toward_popularity(data):
    model = Transitions(smoothing=6.0, window=1).fit(data)
    # After x: 3 transitions; overall x 3/6, y 2/6, z 1/6.
    found = scores(model, data, "b", 1, "y", "z", "x")
    assert found == pytest.approx([(2 + 2) / 9, (1 + 1) / 9, 3 / 9])


def test_later_followers_count_less(data):
    model = Transitions(smoothing=6.0, window=3, decay=0.5).fit(data)
    # After y: x one step and z two steps later, in the history of a only.
    assert scores(model, data, "b", 2, "x", "z") == pytest.approx([(1 + 3) / 7.5, (0.5 + 1) / 7.5])


def test_without_transitions_the_score_is_popularity(data):
    model = Transitions(smoothing=6.0, window=1).fit(data)
    expected = pytest.approx([3 / 6, 2 / 6, 0.0])
    assert scores(model, data, "unknown", 0, "x", "y", "strange") == expected
    assert scores(model, data, "a", 4, "x", "y", "strange") == expected  # nothing followed z


def test_scores_of_the_catalog_are_probabilities(data):
    model = Transitions(smoothing=2.0).fit(data)
    users = pl.DataFrame({"user_id": ["a", "b"], "position": [2, 1]})
    ((_, whole),) = model.score_catalog(users, data.interactions)
    assert whole.sum(axis=1).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "value"), [("smoothing", 0.0), ("window", 0), ("decay", 0.0), ("decay", 2.0)]
)
def test_settings_out_of_range_are_rejected(name, value):
    with pytest.raises(SettingsError, match=rf"{name} must .*, but is {value}"):
        Transitions(**{name: value})


def test_unfitted_and_damaged_models_are_rejected(data, tmp_path):
    with pytest.raises(TrainingError, match="'transitions' is not fitted"):
        scores(Transitions(), data, "a", 1, "x")
    Transitions().fit(data).save(tmp_path)
    (tmp_path / "model.json").write_text('{"settings": {"smoothing": 1, "odd": 2}, "catalog": []}')
    with pytest.raises(DamagedFileError, match=r"Cannot load .*odd"):
        Transitions.load(tmp_path)
