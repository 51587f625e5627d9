"""The database tests against a real PostgreSQL server, if one is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mllm_msr.errors import RunFolderError, RunLockedError
from mllm_msr.serving.state import NewEvent, ServiceState
from state_checks import check_everything

pytest.importorskip("psycopg")


def programs() -> Path | None:
    """Return the folder of the server's programs, which is not on the path on Debian."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    folder = programs()
    if folder is None:
        pytest.skip("no PostgreSQL server is installed")
    # The server refuses to run as root.
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        if user:
            shutil.chown(data, "postgres", "postgres")

        def call(*command: str) -> None:
            subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=data, **user)

        call(str(folder / "initdb"), "-D", f"{data}/db", "-A", "trust", "-U", "tester", "--no-sync")
        options = f"-k {data} -c listen_addresses='' -c fsync=off"
        control = (str(folder / "pg_ctl"), "-D", f"{data}/db", "-w", "-l", f"{data}/log")
        call(*control, "-o", options, "start")
        try:
            yield f"postgresql+psycopg://tester@/postgres?host={data}"
        finally:
            call(*control, "-m", "immediate", "stop")


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
