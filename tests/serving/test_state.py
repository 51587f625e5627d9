"""Tests for the database: order of events, killed processes, full disks, locking, deletion."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.errors import RunFolderError
from mllm_msr.serving.state import ServiceState
from state_checks import PREFERENCE_HISTORY, check_everything

WRITER = """
import json, sys
from mllm_msr.serving.state import ServiceState
state = ServiceState(sys.argv[1])
for n in range(100000):
    new = state.add_events([(f"{n}-{m}", f"u{n % 3}", str(n), None) for m in range(2)])
    print(json.dumps([n, new]), flush=True)
"""


def url_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'state.sqlite'}"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[ServiceState]:
    made = ServiceState(url_in(tmp_path))
    yield made
    made.close()


def test_sqlite(tmp_path: Path) -> None:
    check_everything(lambda: ServiceState(url_in(tmp_path / "deeper")))


def test_order_does_not_depend_on_the_clock(
    state: ServiceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, now in enumerate((2e9, 1.0, 3e9)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        state.add_events([(str(n), "u", f"i{n}", None)])
    assert state.user("u").events == ("i0", "i1", "i2")


def test_second_service_is_rejected_with_the_process_id_of_the_first(
    tmp_path: Path, state: ServiceState
) -> None:
    code = f"from mllm_msr.serving.state import ServiceState; ServiceState({url_in(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"is in use by process {os.getpid()}." in done.stderr
    assert "serve.state" in done.stderr
    assert state.add_events([("1", "u", "a", None)]) == [True]
    state.close()
    ServiceState(url_in(tmp_path)).close()


def test_killed_process_has_lost_no_acknowledged_event(tmp_path: Path) -> None:
    total = 0
    for round_ in range(3):
        folder = tmp_path / str(round_)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, url_in(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        acknowledged = [json.loads(process.stdout.readline()) for _ in range(5 + 20 * round_)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [json.loads(line) for line in process.stdout if line.endswith("]\n")]
        process.wait()
        state = ServiceState(url_in(folder))
        stored = [item for user in ("u0", "u1", "u2") for item in state.user(user).events]
        state.close()
        assert all(new == [True, True] for _, new in acknowledged)
        for n, _ in acknowledged:
            assert stored.count(str(n)) == 2
        # At most one further transaction is stored, completely: its acknowledgment was cut off.
        assert len(stored) - 2 * len(acknowledged) in (0, 2)
        total += len(acknowledged)
    assert total >= 75


def test_full_disk_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    state = ServiceState(url_in(tmp_path))
    state.add_events([("1", "u", "a", None)])
    with state._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    # SQLite's page limit fails like a full disk, with SQLITE_FULL.
    state._engine.dispose()
    import sqlalchemy as sql

    sql.event.listen(
        state._engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count={pages}")
    )
    many = [(f"more{n}", "u", "x" * 200, None) for n in range(500)]
    with pytest.raises(
        RunFolderError,
        match=r"database or disk is full\. Free disk space.*acknowledged data is not lost",
    ):
        state.add_events(many)
    assert state.user("u").events == ("a",)
    state.close()
    again = ServiceState(url_in(tmp_path))
    assert again.add_events(many).count(True) == 500
    again.close()


def test_damaged_or_unreachable_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(RunFolderError, match=r"state\.sqlite.*not a database"):
        ServiceState(url_in(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"serve\.state"):
        ServiceState(url_in(tmp_path / "file"))


def test_database_is_an_sqlite_file_in_wal_mode(tmp_path: Path, state: ServiceState) -> None:
    state.add_events([("1", "u", "a", 7)])
    with sqlite3.connect(tmp_path / "state.sqlite") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("SELECT event_id, timestamp FROM events").fetchall() == [("1", 7)]


def test_preferences_of_deleted_users_are_erased_from_the_file(
    tmp_path: Path, state: ServiceState
) -> None:
    texts = [f"The user appears to have a preference for secret number {n}." for n in range(200)]
    for n, text in enumerate(texts):
        preference_history = PREFERENCE_HISTORY.with_columns(
            user_id=pl.lit(f"u{n}"), preference=pl.lit(text)
        )
        state.set_preference_history(f"u{n}", preference_history)
    for n in range(199):
        state.delete_user(f"u{n}", in_run=False)
    state.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert texts[199].encode() in content
    assert content.count(b"secret number") == PREFERENCE_HISTORY.height
