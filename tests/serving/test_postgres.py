"""The database tests against a real PostgreSQL server, if one is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from mllm_msr.errors import RunFolderError, RunLockedError
from mllm_msr.serving.state import NewEvent, ServiceState
from state_checks import check_everything


@pytest.fixture(scope="module")
def url(new_database: Callable[[], str]) -> str:
    return new_database()


def test_postgres(url: str) -> None:
    check_everything(lambda: ServiceState(url))


def test_second_service_is_rejected_with_the_process_id_of_the_first(url: str) -> None:
    state = ServiceState(url)
    code = f"from mllm_msr.serving.state import ServiceState; ServiceState({url!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"is in use by process {os.getpid()}." in done.stderr
    state.close()
    ServiceState(url).close()


def test_other_url_of_the_same_database_is_locked_too(url: str) -> None:
    state = ServiceState(url)
    other = f"{url}&connect_timeout=9".replace("postgresql+psycopg:", "postgresql:")
    with pytest.raises(RunLockedError, match=f"is in use by process {os.getpid()}"):
        ServiceState(other)
    state.close()


def test_lost_lock_is_noticed(url: str) -> None:
    state = ServiceState(url)
    state.add_events([NewEvent("lock-1", "u", "a")])
    with state._database.connect() as connection:
        query = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
        process_id = connection.exec_driver_sql(query).scalar()
        connection.exec_driver_sql(f"SELECT pg_terminate_backend({process_id})")
    with pytest.raises(RunFolderError, match="restore the connection"):
        state.add_events([NewEvent("lock-2", "u", "a")])
    state._checked -= 2
    with pytest.raises(RunFolderError, match="restore the connection"):
        state.check()
    state.close()


def test_unreachable_server_is_reported(url: str) -> None:
    with pytest.raises(
        RunFolderError, match=r"database postgresql.* failed: .*restore the connection"
    ):
        ServiceState(url.replace("host=", "host=/nowhere"))
