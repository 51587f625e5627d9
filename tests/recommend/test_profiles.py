"""Tests for user profiles: histories, preference histories, hidden targets."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.recommend.profiles import Profile, UserProfiles
from mllm_msr.tables import INTERACTIONS, PREFERENCES


@pytest.fixture
def users() -> UserProfiles:
    interactions = pl.DataFrame(
        [("v", "a", 9, 0), ("u", "b", 2, 1), ("u", "a", 1, 0)],
        schema=dict(INTERACTIONS),
        orient="row",
    )
    preferences = pl.DataFrame(
        [
            ("u", 1, 3, "reads the hidden target", True, ""),
            ("u", 0, 2, "second", False, ""),
            ("u", 0, 1, "first", False, ""),
        ],
        schema=dict(PREFERENCES),
        orient="row",
    )
    return UserProfiles(interactions, preferences)


def test_profile_is_the_history_and_the_latest_preference(users: UserProfiles) -> None:
    assert users.profile("u") == Profile("u", ("a", "b"), "second")
    assert users.profile("v") == Profile("v", ("a",), "")


def test_preferences_inferred_from_items_beyond_the_history_are_left_out(
    users: UserProfiles,
) -> None:
    assert users.preference_history("u")["n_items"].to_list() == [2, 1]


def test_unknown_user_has_an_empty_profile(users: UserProfiles) -> None:
    assert (list(users), "v" in users, "w" in users) == (["u", "v"], True, False)
    assert users.profile("w") == Profile("w")
    assert users.preference_history("w").schema == dict(PREFERENCES)


def test_preference_history_can_be_replaced(users: UserProfiles) -> None:
    users.set_preference_history("v", pl.DataFrame(
        [("v", 0, 1, "new", True, "")], schema=dict(PREFERENCES), orient="row"
    ))  # fmt: skip
    assert users.profile("v").preference == "new"


def test_item_counts(users: UserProfiles) -> None:
    assert users.item_counts() == {"a": 2, "b": 1}


def test_history_frame_keeps_the_order() -> None:
    frame = Profile("u", ("b", "a", "b")).history_frame()
    assert dict(frame.schema) == dict(INTERACTIONS)
    assert frame.rows() == [("u", "b", 0, 0), ("u", "a", 1, 1), ("u", "b", 2, 2)]
    assert Profile("u").history_frame().height == 0
