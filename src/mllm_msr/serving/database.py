"""Connection to the service's database: URL, exclusive use, and the check that it is usable.

`state.py` has the tables and statements. A `Database` belongs to one service: an SQLite file is
locked by its real path, a PostgreSQL database by an advisory lock. After each write, and whenever
readiness is checked, the service verifies that it still writes to the database at the URL: a
process can continue to write to an SQLite file that was moved or deleted, and that data would be
lost at the next start.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import quote

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite

from mllm_msr.errors import MissingExtraError, RunFolderError, RunLockedError, SettingsError
from mllm_msr.storage.process_lock import ProcessLock

_LOCKED_FIX: Final = "Stop that service, or set serve.state to another database."
_URL_FIX: Final = (
    "Use sqlite:////folder/state.sqlite or postgresql+psycopg://user:password@host/database."
)
_ADVISORY_LOCK: Final = 0x6D6C6C6D  # a number that other programs are unlikely to use
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f]")

_Identity = tuple[int, int] | None  # device and inode of a file


def parse_url(text: str) -> sql.URL:
    """Return the database URL of the setting `serve.state`.

    Raises:
        SettingsError: The text is not the URL of an SQLite file or a PostgreSQL database. The
            message contains no password.
        MissingExtraError: The driver of PostgreSQL is not installed.
    """
    try:
        url = sql.make_url(text)
    except (sql.exc.ArgumentError, ValueError):
        url = sql.URL.create("unknown")
    if url.drivername in {"sqlite", "sqlite+pysqlite"}:
        path = url.database or ""
        if not path or path == ":memory:":
            problem = "names no file, so that all events would be lost at the end"
        elif url.host or url.query or _CONTROL_CHARACTER.search(path):
            problem = "is not the URL of a file"
        else:
            return url
    elif url.drivername in {"postgresql", "postgresql+psycopg"}:
        if importlib.util.find_spec("psycopg") is None:
            raise MissingExtraError("psycopg", "postgres")
        return url.set(drivername="postgresql+psycopg")
    else:
        problem = "is not the URL of an SQLite file or a PostgreSQL database"
    raise SettingsError([f"serve.state={hide_secrets(text)!r} {problem}. {_URL_FIX}"])


def hide_secrets(url: str) -> str:
    """Return a URL, valid or not, without user, password and parameters."""
    before, at, after = url.rpartition("@")
    scheme, separator, _ = before.partition("://")
    start = f"{scheme}{separator}***@" if separator else "***@"
    address, question, _ = after.partition("?")
    return f"{start if at else ''}{address}{question and '?***'}"


@final
class Database:
    """Open database of one service; thread-safe.

    Args:
        url: URL as returned by `parse_url`.

    Attributes:
        engine: SQLAlchemy's engine. Use it within `translate_errors`.
        insert: Constructor of INSERT statements with `on_conflict_do_nothing`.

    Raises:
        RunLockedError: Another service uses the database; the message names its process.
        RunFolderError: The database cannot be opened.
    """

    def __init__(self, url: sql.URL) -> None:
        self._url = url
        self._is_sqlite = url.get_backend_name() == "sqlite"
        self._name = url.set(query={}).render_as_string(hide_password=True)
        self._opened = contextlib.ExitStack()
        self._files: dict[Path, _Identity] = {}
        self._lock_connection = threading.Lock()
        options: dict[str, Any] = {
            "pool_pre_ping": True,
            "connect_args": {"application_name": f"mllm-msr {os.getpid()}"},
        }
        path = Path(url.database or "").absolute()
        if self._is_sqlite:  # a transaction of another thread may lock the file briefly
            options = {"connect_args": {"timeout": 10}}
            url = url.set(database=str(path.resolve()))
        self.insert: Any = sqlite.insert if self._is_sqlite else postgresql.insert
        with self.translate_errors():
            # Parameters are data of users, which error messages must not contain.
            self.engine = sql.create_engine(url, hide_parameters=True, **options)
        self._opened.callback(self.engine.dispose)
        try:
            with self.translate_errors():
                if self._is_sqlite:
                    self._open_sqlite(path)
                else:
                    self._connection = self._opened.enter_context(self._lock_server())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database and release its lock. Calling it twice is harmless."""
        self._opened.close()

    @contextlib.contextmanager
    def begin(self) -> Iterator[sql.Connection]:
        """Run a transaction, which is on disk when the `with` block has ended.

        Raises:
            RunFolderError: The disk is full, the database cannot be reached, or it is no longer
                the database at the URL.
        """
        self._check_files()  # before a new connection would create the file again
        with self.translate_errors():
            with self.engine.begin() as connection:
                yield connection
            self.check_identity()

    @contextlib.contextmanager
    def connect(self) -> Iterator[sql.Connection]:
        """Open a connection for reading.

        Raises:
            RunFolderError: The database cannot be read, or is no longer the one at the URL.
        """
        self._check_files()
        with self.translate_errors(), self.engine.connect() as connection:
            yield connection

    def check_identity(self) -> None:
        """Check that the open database is the one at the URL, and that its lock is held.

        Raises:
            RunFolderError: The file was moved, replaced or deleted, or the lock was lost.
        """
        self._check_files()
        if not self._is_sqlite:
            with self.translate_errors(), self._lock_connection:
                # Fails if the connection has ended, and with it the lock.
                self._connection.execute(sql.select(1))

    def _check_files(self) -> None:
        for path, identity in self._files.items():
            if _identity(path) != identity:
                raise RunFolderError(
                    f"The file {path} of the service's database was moved, replaced or deleted "
                    "while the service was running. Stop the service, restore the file and start "
                    "the service again."
                )

    def erase_deleted(self) -> None:
        """Remove deleted data from all files of the database.

        SQLite overwrites deleted rows in its file, but its write-ahead log has their former
        content until it is truncated. PostgreSQL removes them in a later VACUUM.

        Raises:
            RunFolderError: Another program has been reading the file for too long.
        """
        if not self._is_sqlite:
            return
        with self.connect() as connection:
            autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
            busy = autocommit.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
        if busy:
            raise RunFolderError(
                f"The data was deleted, but another program is reading {self._name}, so that its "
                "write-ahead log still contains it. Wait until that program has finished, then "
                "send the same request again."
            )

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Convert errors of the database and the file system to a `RunFolderError`."""
        try:
            yield
        except (sql.exc.SQLAlchemyError, OSError) as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            for secret in (self._url.password, *map(str, self._url.query.values())):
                if secret:
                    cause = cause.replace(str(secret), "***").replace(quote(str(secret)), "***")
            raise RunFolderError(
                f"The service's database {self._name} failed: {cause.rstrip('.')}. Free disk "
                "space or restore the connection; acknowledged data is not lost."
            ) from error

    def _open_sqlite(self, path: Path) -> None:
        if path.is_dir():
            raise RunFolderError(f"The service's database {path} is a folder. {_URL_FIX}")
        real = path.resolve()  # the lock is that of the file, whatever the path to it
        lock = _lock_file(real)
        self._opened.callback(lock.release)
        # Preferences are personal data. SQLite gives its other files the same permissions.
        os.close(os.open(real, os.O_RDWR | os.O_CREAT, 0o600))
        if real.stat().st_nlink > 1:
            raise RunFolderError(
                f"The service's database {path} has several names (hard links), so that two "
                "services could use it at the same time. Delete the other names, or copy the file."
            )
        sql.event.listen(self.engine, "connect", _prepare_sqlite)
        # While a connection is open, SQLite does not delete the write-ahead log.
        connection = self._opened.enter_context(self.engine.connect())
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        autocommit.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()
        log = real.with_name(f"{real.name}-wal")
        self._files = {one: _identity(one) for one in (path, log)}

    @contextlib.contextmanager
    def _lock_server(self) -> Iterator[sql.Connection]:
        """Hold a PostgreSQL advisory lock, which the server releases when the connection ends."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # Detach from the pool, so that leaving this block ends the connection and the lock.
            connection.detach()
            if not connection.execute(
                sql.select(sql.func.pg_try_advisory_lock(_ADVISORY_LOCK))
            ).scalar():
                query = sql.text(
                    "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) "
                    "WHERE locktype = 'advisory' AND objid = :number AND granted"
                )
                owner = connection.execute(query, {"number": _ADVISORY_LOCK}).scalar()
                number = str(owner or "").removeprefix("mllm-msr ")
                process = f"process {number}" if number else "an unknown process"
                raise RunLockedError(
                    f"The service's database {self._name} is in use by {process}. {_LOCKED_FIX}"
                )
            yield connection


def _identity(path: Path) -> _Identity:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    # With NORMAL, a power failure could lose the latest acknowledged transactions.
    connection.execute("PRAGMA synchronous=FULL")
    # Overwrite deleted data, such as the preferences of deleted users.
    connection.execute("PRAGMA secure_delete=ON")


def _lock_file(path: Path) -> ProcessLock:
    lock = ProcessLock(
        path.with_name(f"{path.name}.lock"),
        subject=f"The service's database {path}",
        fix=_LOCKED_FIX,
    )
    try:
        lock.acquire()
    except RunLockedError:
        raise
    except RunFolderError as error:
        raise RunFolderError(
            f"{error} You can also set serve.state to another database."
        ) from error
    return lock
