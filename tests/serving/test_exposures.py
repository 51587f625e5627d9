"""Tests for the log of what A/B tests have shown, and the outcomes that it yields."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mllm_msr.serving.exposures import read_experiments, read_outcomes
from mllm_msr.serving.state import NewEvent, ServiceState


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceState]:
    """Return a database in which each statement has a later time."""
    seconds = itertools.count(1000)
    monkeypatch.setattr(time, "time", lambda: next(seconds))
    opened = ServiceState(tmp_path / "state.sqlite")
    yield opened
    opened.close()


def interact(state: ServiceState, user_id: str, item_id: str, *, kind="interaction") -> str:
    event_id = f"{user_id} {item_id} {kind} {time.time()}"
    state.add_events([NewEvent(event_id, user_id, item_id, type=kind)])
    return event_id


def outcomes(state: ServiceState, experiment: str = "test") -> list[tuple[object, ...]]:
    with state._database.connect() as connection:
        return read_outcomes(connection, experiment).rows()


def test_interactions_with_shown_items_count_once_and_only_afterwards(
    state: ServiceState,
) -> None:
    interact(state, "u1", "early")
    state.exposures.add("test", "a", "u1", ["early", "liked", "ignored", "hidden"])
    state.exposures.add("test", "b", "u2", ["liked"])
    interact(state, "u1", "liked")
    interact(state, "u1", "liked")
    interact(state, "u1", "never shown")
    interact(state, "u1", "hidden", kind="dislike")
    assert outcomes(state) == [("a", "u1", 4, 1), ("b", "u2", 1, 0)]
    assert outcomes(state, "other") == []


def test_first_time_and_variant_of_an_item_remain(state: ServiceState) -> None:
    state.exposures.add("test", "a", "u1", ["x"])
    interact(state, "u1", "x")
    state.exposures.add("test", "b", "u1", ["x", "y"])
    state.exposures.add("other", "b", "u1", ["x"])
    assert outcomes(state) == [("a", "u1", 1, 1), ("b", "u1", 1, 0)]
    with state._database.connect() as connection:
        assert read_experiments(connection) == ["other", "test"]


def test_variants_of_pairs(state: ServiceState) -> None:
    state.exposures.add("test", "a", "u1", ["x"])
    state.exposures.add("test", "b", "u2", ["y"])
    state.exposures.add("test", "b", "u2", [])
    pairs = [("u1", "x"), ("u2", "x"), ("u2", "y"), ("u3", "y")]
    found = state.exposures.variants_of("test", pairs)
    assert found == {("u1", "x"): "a", ("u2", "y"): "b"}
    assert state.exposures.variants_of("other", pairs) == {}


def test_undone_events_and_deleted_users_leave_no_outcome(state: ServiceState) -> None:
    state.exposures.add("test", "a", "u1", ["x"])
    state.exposures.add("test", "a", "u2", ["x"])
    event_id = interact(state, "u1", "x")
    interact(state, "u2", "x")
    state.remove_event("u1", event_id, n_run_items=0, n_run_read=0)
    state.delete_user("u2", in_run=False)
    assert outcomes(state) == [("a", "u1", 1, 0)]
