"""Selection of pairs for the teacher: where the student is unsure, never an item of the user."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines._distillation.selection import unsure_pairs
from mllm_msr.tables import INTERACTIONS


class Scores:
    """Student with given scores, one user per chunk."""

    catalog = ("a", "b", "c", "d")

    def __init__(self, scores: dict[str, list[float]]) -> None:
        self.scores = scores

    def score_catalog(self, users, interactions):
        del interactions
        for row in users.iter_slices(1):
            yield row, np.array([self.scores[row["user_id"][0]]], dtype=np.float32)


STUDENT = Scores({"sure": [9, 0, 0, 0], "unsure": [1, 1, 0.5, 0], "known": [0, 0, 9, 0]})


@pytest.fixture
def interactions() -> pl.DataFrame:
    # The last item of "known" follows its target.
    rows = [("sure", "b", 0, 0), ("unsure", "a", 0, 0), ("known", "d", 0, 0), ("known", "c", 2, 2)]
    return pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")


def targets(*users: str) -> pl.DataFrame:
    return pl.DataFrame({"user_id": users, "position": pl.Series([1] * len(users), dtype=pl.Int32)})


def select(interactions, *users: str, **sizes: int) -> list[tuple[str, str]]:
    found = unsure_pairs(STUDENT, targets(*users), interactions, **sizes)
    assert found.columns == ["user_id", "position", "item_id"]
    assert found.schema["position"] == pl.Int32
    return sorted(found.select("user_id", "item_id").rows())


def test_the_items_that_contribute_most_to_the_entropy_are_selected(interactions):
    assert select(interactions, "unsure", list_size=2, budget=2) == [
        ("unsure", "b"),
        ("unsure", "c"),
    ]


def test_the_lists_with_the_highest_entropy_fill_the_budget(interactions):
    pairs = select(interactions, "sure", "unsure", "known", list_size=2, budget=5)
    assert {user for user, _ in pairs} == {"unsure", "known"}
    assert len(pairs) == 4


def test_items_of_the_user_are_never_selected(interactions):
    pairs = select(interactions, "sure", "unsure", "known", list_size=4, budget=12)
    own = set(interactions.select("user_id", "item_id").rows())
    assert not own & set(pairs)
    assert len(pairs) == 12 - len(own)


def test_a_target_is_selected_once(interactions):
    assert len(select(interactions, "unsure", "unsure", list_size=2, budget=8)) == 2


def test_without_targets_nothing_is_selected(interactions):
    assert select(interactions, list_size=2, budget=8) == []
