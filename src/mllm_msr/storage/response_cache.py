"""Cache of model responses: one SQLite file in the run folder.

It maps the hash of a request to the JSON text of the response. A response is on the disk as soon as
it is stored, so that the long stages (item summaries, preferences, scores) can resume at any point.
Losing responses is harmless: a damaged row counts as absent, and a damaged file is moved aside and
replaced by a new one.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, final

from mllm_msr.errors import RunFolderError
from mllm_msr.storage import atomic

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# Far below SQLite's limit on the number of variables in a statement.
_CHUNK_SIZE: Final = 500
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SYSTEM_ERRORS: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_READONLY: errno.EROFS,
}
# A table with row ids and a unique index: inserting is measurably faster than WITHOUT ROWID.
_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS responses (
        key TEXT NOT NULL UNIQUE, value TEXT NOT NULL, checksum INTEGER NOT NULL
    )
"""


@final
class ResponseCache:
    """Persistent map from request hashes to responses.

    Threads of one process may share it. Only one process may use the file at a time.

    Args:
        path: The database file. It and its parent folders are created if they do not exist.

    Raises:
        RunFolderError: The disk is full or the file is not writable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        self._database: sqlite3.Connection | None = None
        self._execute(functools.partial(_select, keys=()))

    def get_many(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the stored responses for the given keys; missing and damaged ones are omitted.

        Raises:
            RunFolderError: The file cannot be read.
        """
        wanted = list(keys)
        found: dict[str, str] = {}
        for start in range(0, len(wanted), _CHUNK_SIZE):
            chunk = wanted[start : start + _CHUNK_SIZE]
            for key, value, checksum in self._execute(functools.partial(_select, keys=chunk)):
                if _is_intact(key, value, checksum):
                    found[key.decode()] = value.decode()
        return found

    def put_many(self, responses: Mapping[str, str]) -> None:
        """Store responses; all of them are on the disk when the call returns.

        Args:
            responses: JSON text by key. Existing keys are replaced.

        Raises:
            RunFolderError: The disk is full or the file is not writable; nothing was stored.
        """
        rows = [
            (key, value, _checksum(key.encode(), value.encode()))
            for key, value in responses.items()
        ]
        if rows:
            self._execute(functools.partial(_insert, rows=rows))

    def close(self) -> None:
        """Close the file. Calling it twice is harmless."""
        with self._lock:
            self._closed = True
            self._disconnect()

    def _execute(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a database action; replace the file and try again if it is damaged."""
        with self._lock:
            try:
                with atomic.wrap_os_errors(self._path):
                    try:
                        return action(self._connect())
                    except sqlite3.DatabaseError as error:
                        if _primary_code(error) not in _DAMAGED:
                            raise
                        self._replace_damaged_file(error)
                    return action(self._connect())
            except sqlite3.DatabaseError as error:
                code = _SYSTEM_ERRORS.get(_primary_code(error))
                if code is not None:
                    raise atomic.write_error(self._path, code) from error
                raise RunFolderError(
                    f"The response cache {self._path} cannot be used: {error}. Delete the file and "
                    "run the same command again; its responses are requested again."
                ) from error

    def _connect(self) -> sqlite3.Connection:
        if self._closed:
            raise RunFolderError(
                f"The response cache {self._path} is closed. Use it inside the with statement of "
                "the run folder."
            )
        if self._database is None:
            atomic.create_private_file(self._path)  # after a damaged file was moved aside
            # Assign first, so that `_disconnect` closes it if one of the next statements fails.
            self._database = sqlite3.connect(
                self._path, check_same_thread=False, isolation_level=None
            )
            self._database.text_factory = bytes
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(_TABLE)
        return self._database

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _replace_damaged_file(self, error: sqlite3.DatabaseError) -> None:
        """Move the file aside and copy its intact rows to a new one."""
        self._disconnect()
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.damaged-{number}")).exists():
            number += 1
        for suffix in ("", "-wal", "-shm"):
            part = self._path.with_name(f"{self._path.name}{suffix}")
            if part.exists():
                part.replace(aside.with_name(f"{aside.name}{suffix}"))
        n_recovered = 0
        with (
            contextlib.suppress(sqlite3.DatabaseError),
            contextlib.closing(sqlite3.connect(aside)) as damaged,
        ):
            damaged.text_factory = bytes
            # Scan without the index, which may be damaged. The scan ends at an unreadable page.
            rows = damaged.execute("SELECT key, value, checksum FROM responses NOT INDEXED")
            while chunk := rows.fetchmany(_CHUNK_SIZE):
                intact = [(k.decode(), v.decode(), c) for k, v, c in chunk if _is_intact(k, v, c)]
                _insert(self._connect(), rows=intact)
                n_recovered += len(intact)
        logger.warning(
            "the response cache %s is damaged (%s): moved it to %s and recovered %d responses; "
            "the others are requested again",
            self._path,
            error,
            aside.name,
            n_recovered,
        )


def copy_responses(source: Path, target: Path) -> None:
    """Copy a cache file atomically, including responses in SQLite's write-ahead log.

    Args:
        source: A cache file. Another connection of this process may have it open.
        target: Path of the copy. An existing file is replaced, so it must not be open.

    Raises:
        RunFolderError: The disk is full, or a file cannot be read or written.
    """
    with atomic.replace_file(target) as temporary:
        try:
            with (
                contextlib.closing(sqlite3.connect(source)) as old,
                contextlib.closing(sqlite3.connect(temporary)) as new,
            ):
                old.backup(new)
                # The copied header sets WAL mode. This makes the copy a single complete file.
                new.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.DatabaseError as error:
            raise RunFolderError(
                f"The response cache {source} cannot be copied: {error}. Delete the file and run "
                "the same command again; its responses are requested again."
            ) from error


def _select(database: sqlite3.Connection, *, keys: Sequence[str]) -> list[tuple[Any, Any, Any]]:
    marks = ", ".join("?" * len(keys))
    query = f"SELECT key, value, checksum FROM responses WHERE key IN ({marks})"  # noqa: S608
    return database.execute(query, keys).fetchall()


def _insert(database: sqlite3.Connection, *, rows: Sequence[tuple[str, str, int]]) -> None:
    database.execute("BEGIN IMMEDIATE")
    try:
        database.executemany("INSERT OR REPLACE INTO responses VALUES (?, ?, ?)", rows)
        _check_stored(database, [key for key, _, _ in rows])
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _check_stored(database: sqlite3.Connection, keys: Sequence[str]) -> None:
    """Raise an error unless the index finds all keys. SQLite does not detect a damaged index."""
    for start in range(0, len(keys), _CHUNK_SIZE):
        chunk = keys[start : start + _CHUNK_SIZE]
        found = {row[0] for row in _select(database, keys=chunk) if _is_intact(*row)}
        if len(found) != len(chunk):
            raise _DamagedIndexError("a row that was just stored is not found")


class _DamagedIndexError(sqlite3.DatabaseError):
    """Damage of the index, treated like damage that SQLite reports."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _is_intact(key: object, value: object, checksum: object) -> bool:
    # A flipped bit can also change the stored type.
    if not isinstance(key, bytes) or not isinstance(value, bytes):
        return False
    return checksum == _checksum(key, value)


def _checksum(key: bytes, value: bytes) -> int:
    return zlib.crc32(key + b"\0" + value)


def _primary_code(error: sqlite3.DatabaseError) -> int:
    # The lowest byte of an extended error code is the primary code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
