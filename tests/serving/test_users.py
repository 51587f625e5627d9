"""A user at one moment: how much of his history the newest preference has read."""

from __future__ import annotations

from mllm_msr import tables
from mllm_msr.recommend.retrieval import Profile
from mllm_msr.serving.users import User
from state_checks import PREFERENCE_HISTORY


def test_the_newest_preference_counts_in_whatever_order_the_preference_history_is() -> None:
    assert User(Profile("u"), PREFERENCE_HISTORY, known=True).n_items == 4
    assert User(Profile("u"), PREFERENCE_HISTORY.reverse(), known=True).n_items == 4


def test_without_a_preference_nothing_has_been_read() -> None:
    assert User(Profile("u"), tables.empty(tables.PREFERENCES), known=False).n_items == 0
