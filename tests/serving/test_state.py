"""Tests for the database: order of events, killed processes, full disks, locking, deletion."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sql

from mllm_msr.errors import RunFolderError
from mllm_msr.serving.state import NewEvent, ServiceState
from state_checks import PREFERENCE_HISTORY, check_everything

WRITER = """
import json, sys
from mllm_msr.serving.state import NewEvent, ServiceState
state = ServiceState(sys.argv[1])
for n in range(100000):
    new = state.add_events([NewEvent(f"{n}-{m}", f"u{n % 3}", str(n)) for m in range(2)])
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
        state.add_events([NewEvent(str(n), "u", f"i{n}")])
    assert state.user("u").history == ("i0", "i1", "i2")


def test_second_service_is_rejected_with_the_process_id_of_the_first(
    tmp_path: Path, state: ServiceState
) -> None:
    code = f"from mllm_msr.serving.state import ServiceState; ServiceState({url_in(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"is in use by process {os.getpid()}." in done.stderr
    assert "serve.state" in done.stderr
    assert state.add_events([NewEvent("1", "u", "a")]) == [True]
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
        stored = [item for user in ("u0", "u1", "u2") for item in state.user(user).history]
        state.close()
        assert all(new == [True, True] for _, new in acknowledged)
        for n, _ in acknowledged:
            assert stored.count(str(n)) == 2
        # At most one further transaction is stored, completely: its acknowledgment was cut off.
        assert len(stored) - 2 * len(acknowledged) in (0, 2)
        total += len(acknowledged)
    assert total >= 75


def expire_check(state: ServiceState) -> None:
    """Let the next call of `check` write again."""
    state._checked -= 2


def test_full_disk_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    state = ServiceState(url_in(tmp_path))
    state.add_events([NewEvent("1", "u", "a")])
    engine = state._database.engine
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    # SQLite's page limit fails like a full disk, with SQLITE_FULL.
    engine.dispose()
    sql.event.listen(engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count={pages}"))
    many = [NewEvent(f"more{n}", "u", "x" * 200) for n in range(500)]
    with pytest.raises(
        RunFolderError,
        match=r"database or disk is full\. Free disk space.*acknowledged data is not lost",
    ):
        state.add_events(many)
    assert state.user("u").history == ("a",)
    state.close()
    again = ServiceState(url_in(tmp_path))
    assert again.add_events(many).count(True) == 500
    again.close()


def test_full_disk_is_noticed_by_the_check(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs privileges")
    try:
        state = ServiceState(url_in(tmp_path))
        filler = tmp_path / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(tmp_path).free)
        for _ in range(2):
            with pytest.raises(RunFolderError, match=r"disk.*Free disk space"):
                expire_check_until_full(state)
        filler.unlink()
        expire_check(state)
        state.check()
        state.close()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def expire_check_until_full(state: ServiceState) -> None:
    """Check repeatedly: the write-ahead log may still have some allocated space."""
    for _ in range(50):
        expire_check(state)
        state.check()


def test_damaged_or_unreachable_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(RunFolderError, match=r"state\.sqlite.*not a database"):
        ServiceState(url_in(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"serve\.state"):
        ServiceState(url_in(tmp_path / "file"))


def test_database_is_an_sqlite_file_in_wal_mode(tmp_path: Path, state: ServiceState) -> None:
    state.add_events([NewEvent("1", "u", "a", 7)])
    with sqlite3.connect(tmp_path / "state.sqlite") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("SELECT event_id, timestamp FROM events").fetchall() == [("1", 7)]


def content(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_data_of_deleted_users_is_erased_from_all_files_at_once(
    tmp_path: Path, state: ServiceState
) -> None:
    for n in range(50):
        user_id = f"person-{n:02}@example.org"
        row = {"user_id": pl.lit(user_id), "preference": pl.lit(f"The user likes secret {n:02}.")}
        state.set_preference_history(user_id, PREFERENCE_HISTORY.with_columns(**row))
        state.add_events([NewEvent(f"event-of-{user_id}", user_id, "a")])
    assert b"person-07" in content(tmp_path)
    for n in range(49):
        state.delete_user(f"person-{n:02}@example.org", in_run=n % 2 == 0)
    remaining = content(tmp_path)
    for text in (b"person-", b"secret ", b"event-of-"):
        found = {remaining[at + len(text) :][:2] for at in find_all(remaining, text)}
        assert found <= {b"49", b"pe"}, text  # "pe" of "event-of-person-49"
    assert b"secret 49" in remaining
    everyone = [f"person-{n:02}@example.org" for n in range(50)]
    assert state.deleted_users(everyone) == set(everyone[:49:2])


def find_all(content: bytes, text: bytes) -> Iterator[int]:
    at = content.find(text)
    while at >= 0:
        yield at
        at = content.find(text, at + 1)


def test_deletion_is_reported_as_incomplete_while_another_program_reads_the_log(
    tmp_path: Path, state: ServiceState
) -> None:
    state.add_events([NewEvent("1", "u", "a")])
    with sqlite3.connect(tmp_path / "state.sqlite") as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()
        sql.event.listen(
            state._database.engine, "checkout", lambda c, *_: c.execute("PRAGMA busy_timeout=1")
        )
        with pytest.raises(RunFolderError, match=r"another program is reading.*same request again"):
            state.delete_user("u", in_run=False)
        reader.execute("ROLLBACK")
    assert state.delete_user("u", in_run=False) == (0, 0)
    assert b"u" not in (tmp_path / "state.sqlite-wal").read_bytes()


def test_event_of_a_deleted_user_that_is_sent_again_is_a_duplicate(
    tmp_path: Path, state: ServiceState
) -> None:
    events = [NewEvent("1", "u", "a"), NewEvent("2", "u", "b")]
    assert state.add_events(events) == [True, True]
    state.delete_user("u", in_run=False)
    assert state.add_events([*events, NewEvent("3", "u", "c")]) == [False, False, True]
    state.close()
    again = ServiceState(url_in(tmp_path))
    assert again.add_events(events) == [False, False]
    assert again.user("u").history == ("c",)
    again.close()


@pytest.mark.parametrize("n_others", [0, 1, 2])
def test_moved_or_replaced_database_accepts_no_events(
    tmp_path: Path, state: ServiceState, n_others: int
) -> None:
    state.add_events([NewEvent("1", "u", "a")])
    state.check()
    for name in ("state.sqlite", "state.sqlite-wal", "state.sqlite-shm")[: n_others + 1]:
        (tmp_path / name).rename(tmp_path / f"moved-{name}")
    with pytest.raises(RunFolderError, match=r"was moved, replaced or deleted.*restore the file"):
        state.add_events([NewEvent("2", "u", "b")])
    assert not (tmp_path / "state.sqlite").exists()
    (tmp_path / "state.sqlite").write_bytes(b"")  # another file at the same path
    for call in (lambda: state.add_events([NewEvent("2", "u", "b")]), state.check):
        expire_check(state)
        with pytest.raises(RunFolderError, match="was moved, replaced or deleted"):
            call()
    (tmp_path / "state.sqlite").unlink()
    for name in ("state.sqlite", "state.sqlite-wal", "state.sqlite-shm")[: n_others + 1]:
        (tmp_path / f"moved-{name}").rename(tmp_path / name)
    assert state.add_events([NewEvent("2", "u", "b")]) == [True]
    assert state.user("u").history == ("a", "b")


def test_database_moved_during_a_transaction_acknowledges_nothing(
    tmp_path: Path, state: ServiceState
) -> None:
    path = tmp_path / "state.sqlite"

    def move(_: object) -> None:
        path.rename(tmp_path / "moved")

    sql.event.listen(state._database.engine, "commit", move)
    with pytest.raises(RunFolderError, match="was moved"):
        state.add_events([NewEvent("1", "u", "a")])


def test_deleted_write_ahead_log_is_noticed(tmp_path: Path, state: ServiceState) -> None:
    (tmp_path / "state.sqlite-wal").unlink()
    with pytest.raises(RunFolderError, match=r"state\.sqlite-wal of the service's database was"):
        state.add_events([NewEvent("1", "u", "a")])


def test_damaged_table_of_events_is_noticed_by_the_check(
    tmp_path: Path, state: ServiceState
) -> None:
    for n in range(20):
        state.add_events([NewEvent(f"{n}-{m}", "u", "x" * 100) for m in range(100)])
    state.check()
    state._database.erase_deleted()
    with sqlite3.connect(tmp_path / "state.sqlite") as database:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'events'"
        ((page,),) = database.execute(query).fetchall()
    with (tmp_path / "state.sqlite").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    state._database.engine.dispose()  # with its cache of pages
    expire_check(state)
    with pytest.raises(RunFolderError, match="malformed"):
        state.check()


def test_check_writes_at_most_once_per_second(
    state: ServiceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    write = ServiceState._write_check

    def recorded(self: ServiceState) -> None:
        calls.append(1)
        write(self)

    monkeypatch.setattr(ServiceState, "_write_check", recorded)
    expire_check(state)
    for _ in range(5):
        state.check()
    assert len(calls) == 1
    assert state.users_with_events() == []


def test_database_of_an_older_version_is_rejected(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.sqlite") as database:
        database.execute("CREATE TABLE events (event_id TEXT)")
    with pytest.raises(RunFolderError, match=r"older version.*serve\.state"):
        ServiceState(url_in(tmp_path))
