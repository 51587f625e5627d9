"""A PostgreSQL server for tests, with databases that are empty at first."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def find_programs() -> Path | None:
    """Return the folder of the server's programs, which is not on the path on Debian."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def postgres(programs: Path) -> Iterator[Callable[[], str]]:
    """Run a server, and yield a function that creates a database and returns its URL."""
    # The server refuses to run as root.
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        if user:
            shutil.chown(data, "postgres", "postgres")

        def call(program: str, *arguments: str) -> None:
            command = [str(programs / program), *arguments]
            subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=data, **user)

        numbers = itertools.count(1)

        def create() -> str:
            database = f"test{next(numbers)}"
            call("createdb", "-h", str(data), "-U", "tester", database)
            return f"postgresql+psycopg://tester@/{database}?host={data}"

        call("initdb", "-D", f"{data}/db", "-A", "trust", "-U", "tester", "--no-sync")
        options = f"-k {data} -c listen_addresses='' -c fsync=off"
        control = ("-D", f"{data}/db", "-w", "-l", f"{data}/log")
        call("pg_ctl", *control, "-o", options, "start")
        try:
            yield create
        finally:
            call("pg_ctl", *control, "-m", "immediate", "stop")
