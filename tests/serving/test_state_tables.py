"""Tests for the tables of the database: creation, and databases of earlier versions."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from mllm_msr.errors import RunFolderError
from mllm_msr.serving.database import Database, parse_url
from mllm_msr.serving.state import NewEvent, ServiceState
from mllm_msr.serving.state_tables import create_tables


def test_key_of_the_hashes_is_created_once(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        database = Database(parse_url(f"sqlite:///{tmp_path / 'state.sqlite'}"))
        keys.append(create_tables(database))
        database.close()
    assert keys[0] == keys[1]
    assert len(keys[0]) == 32


def test_events_of_a_database_without_types_are_interactions(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    state = ServiceState(path)
    state.add_events([NewEvent("1", "u", "a")])
    state.close()
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE events DROP COLUMN type")
    state = ServiceState(path)
    state.add_events([NewEvent("2", "u", "b", None, "dislike")])
    assert [event.type for event in state.user("u").events] == ["interaction", "dislike"]
    state.close()


def test_database_without_hashes_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    ServiceState(path).close()
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE hash_key")
    with pytest.raises(RunFolderError, match=r"An older version .* Set serve\.state"):
        ServiceState(path)
