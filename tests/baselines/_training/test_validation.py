"""The validation metric: validation users only, each kind of negatives with equal weight."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines._training.validation import ValidationUsers
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

ROWS = [
    (0, "train", "uniform", "t", 1, "a", 1),
    (0, "train", "uniform", "t", 1, "b", 0),
    (0, "validation", "uniform", "u", 1, "a", 1),
    (0, "validation", "uniform", "u", 1, "b", 0),
    (0, "validation", "uniform", "v", 1, "a", 1),
    (0, "validation", "uniform", "v", 1, "b", 0),
    (0, "validation", "popularity", "u", 1, "a", 1),
    (0, "validation", "popularity", "u", 1, "b", 0),
]


def data(rows):
    candidates = pl.DataFrame(rows, schema=dict(CANDIDATES), orient="row")
    return TrainingData(empty(INTERACTIONS), empty(ITEMS), candidates, frozenset())


def test_kinds_of_negatives_have_equal_weight():
    users = ValidationUsers.from_data(data(ROWS))
    assert users is not None
    assert users.rows.height == 6
    # u is right and v wrong against uniform negatives (1/2), u right against popular ones (1).
    assert users.value(np.array([1, 0, 0, 1, 1, 0])) == pytest.approx(0.75)
    assert users.value(np.array([1, 0, 0, 1, 1, 0]), metric="hr@1") == pytest.approx(0.75)


def test_ties_count_half():
    users = ValidationUsers.from_data(data(ROWS))
    assert users is not None
    assert users.value(np.zeros(6)) == pytest.approx(0.5)


@pytest.mark.parametrize("rows", [ROWS[:2], [ROWS[2]], []])
def test_no_user_with_both_labels_means_no_validation(rows):
    assert ValidationUsers.from_data(data(rows)) is None
