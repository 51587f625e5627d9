"""Baselines made of arrays: scoring, saving and loading through the base class."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines._shared.array_baseline import ArrayBaseline
from mllm_msr.errors import DamagedFileError, SettingsError, TrainingError
from mllm_msr.tables import INTERACTIONS, empty


class Constant(ArrayBaseline):
    """Scores each item by its entry of one array, times a factor."""

    ARRAYS = ("scores",)
    label: ClassVar[str] = "Constant"

    def __init__(self, *, factor: float = 1.0) -> None:
        if factor < 0:
            raise SettingsError([f"factor must not be negative, but is {factor}."])
        super().__init__({"factor": factor})

    def fit(self, data):
        return self._store(("x", "y"), {"scores": np.array([1.0, 2.0], dtype=np.float32)})

    def score_catalog(self, users, interactions):
        scores = self._require_fitted().arrays["scores"] * self._settings["factor"]
        yield users, np.tile(scores, (users.height, 1))

    def _check_arrays(self, state):
        if len(state.arrays["scores"]) != len(state.catalog):
            raise ValueError("The scores do not fit the catalog.")


CANDIDATES = pl.DataFrame({"user_id": "u", "position": 0, "item_id": ["y", "strange", "x"]})


def scores(model):
    return model.score(CANDIDATES, empty(INTERACTIONS))["score"].to_list()


def test_candidates_get_the_scores_of_the_catalog():
    model = Constant(factor=3.0).fit(None)
    assert scores(model) == [6.0, 0.0, 3.0]
    assert model.catalog == ("x", "y")


def test_a_loaded_model_has_the_same_settings_and_scores(tmp_path):
    Constant(factor=3.0).fit(None).save(tmp_path)
    assert scores(Constant.load(tmp_path)) == [6.0, 0.0, 3.0]


def test_an_unfitted_model_has_no_catalog_and_cannot_score(tmp_path):
    model = Constant()
    assert model.catalog == ()
    with pytest.raises(TrainingError, match=r"is not fitted\. Call fit or load first"):
        scores(model)
    with pytest.raises(TrainingError, match="is not fitted"):
        model.save(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"factor": 1.0', '"factor": -1.0', "factor must not be negative"),
        ('"factor"', '"other"', "other"),
        ('["x", "y"]', '["x"]', "do not fit the catalog"),
    ],
)
def test_inconsistent_state_is_rejected_with_the_reason(tmp_path, old, new, reason):
    Constant().fit(None).save(tmp_path)
    path = tmp_path / "model.json"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(DamagedFileError, match=reason):
        Constant.load(tmp_path)
