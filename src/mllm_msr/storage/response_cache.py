"""The cache of model responses: every finished response is on the disk before anything else happens.

One SQLite file in the run folder, from the hash of a question to the JSON text of its response. It
makes the long stages (item summaries, preferences, scores) resumable at any moment. It is only
a cache: a response that is damaged counts as absent, and a damaged file is put aside for a new one.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from mllm_msr.errors import RunFolderError
from mllm_msr.storage import atomic

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# Far below SQLite's limit of variables in one statement.
_ROWS_AT_ONCE: Final = 500
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SYSTEM_ERRORS: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_READONLY: errno.EROFS,
}
# An ordinary table with a unique index: measured faster to fill than one without row ids.
_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS responses (
        key TEXT NOT NULL UNIQUE, value TEXT NOT NULL, checksum INTEGER NOT NULL
    )
"""


class ResponseCache:
    """Responses by the hash of what was asked. Threads may share it, processes may not.

    Args:
        path: The database file; made, with the folders above it, where it does not exist.

    Raises:
        RunFolderError: The disk is full or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        self._database: sqlite3.Connection | None = None
        with atomic.wrap_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._run(functools.partial(_select, keys=()))

    def get_many(self, keys: Iterable[str]) -> dict[str, str]:
        """Responses by key, without those that are absent or damaged.

        Raises:
            RunFolderError: The file cannot be read.
        """
        wanted = list(keys)
        found: dict[str, str] = {}
        for start in range(0, len(wanted), _ROWS_AT_ONCE):
            chunk = wanted[start : start + _ROWS_AT_ONCE]
            for key, value, checksum in self._run(functools.partial(_select, keys=chunk)):
                if _is_sound(key, value, checksum):
                    found[key.decode()] = value.decode()
        return found

    def put_many(self, responses: Mapping[str, str]) -> None:
        """Store responses; when it returns, all of them are on the disk.

        Args:
            responses: JSON text by key; known keys are replaced.

        Raises:
            RunFolderError: The disk is full or the file cannot be written; none was stored.
        """
        rows = [
            (key, value, _checksum(key.encode(), value.encode()))
            for key, value in responses.items()
        ]
        if rows:
            self._run(functools.partial(_insert, rows=rows))

    def close(self) -> None:
        """Close the file for good. Calling it twice is harmless."""
        with self._lock:
            self._closed = True
            self._disconnect()

    def _run(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        with self._lock, self._explained():
            try:
                return action(self._connected())
            except sqlite3.DatabaseError as error:
                if _primary_code(error) not in _DAMAGE:
                    raise
                self._begin_anew(error)
            return action(self._connected())

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise RunFolderError(
                needed=f"the response cache {self._path} while it is open",
                received="one that is closed",
                remedy="use it inside the run folder's with block",
            )
        if self._database is None:
            # ArtifactCache at once, so that `_begin_anew` can close what fails on the lines that follow.
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

    def _begin_anew(self, error: sqlite3.DatabaseError) -> None:
        self._disconnect()
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.damaged-{number}")).exists():
            number += 1
        for ending in ("", "-wal", "-shm"):
            part = self._path.with_name(f"{self._path.name}{ending}")
            if part.exists():
                part.replace(aside.with_name(f"{aside.name}{ending}"))
        saved = self._salvage(aside)
        logger.warning(
            "the response cache %s is damaged (%s): it is kept as %s, its %d sound responses are in "
            "a new one, the others will be asked again",
            self._path,
            error,
            aside.name,
            saved,
        )

    def _salvage(self, aside: Path) -> int:
        saved = 0
        with (
            contextlib.suppress(sqlite3.DatabaseError),
            contextlib.closing(sqlite3.connect(aside)) as damaged,
        ):
            damaged.text_factory = bytes
            # Past the index, up to the first page that cannot be read.
            rows = damaged.execute("SELECT key, value, checksum FROM responses NOT INDEXED")
            while chunk := rows.fetchmany(_ROWS_AT_ONCE):
                sound = [(k.decode(), v.decode(), c) for k, v, c in chunk if _is_sound(k, v, c)]
                _insert(self._connected(), rows=sound)
                saved += len(sound)
        return saved

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with atomic.wrap_os_errors(self._path):
                yield
        except sqlite3.DatabaseError as error:
            code = _SYSTEM_ERRORS.get(_primary_code(error))
            if code is not None:
                raise atomic.write_error(self._path, code) from error
            raise RunFolderError(
                needed="a response cache that works",
                received=f"{self._path} ({error})",
                remedy="remove the file and go on, its responses are asked again",
            ) from error


def copy_responses(source: Path, target: Path) -> None:
    """Copy a cache file as a whole, at once or not at all.

    Args:
        source: A cache file, which another connection of this process may have open.
        target: Name of the copy; what is there is replaced, so nobody may have it open.

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
                # In the copied file's header stands WAL: as a single file it is complete.
                new.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.DatabaseError as error:
            raise RunFolderError(
                needed=f"a sound response cache {source}",
                received=f"one that cannot be copied ({error})",
                remedy="remove the file and go on, its responses are asked again",
            ) from error


def _select(database: sqlite3.Connection, *, keys: Sequence[str]) -> list[tuple[Any, Any, Any]]:
    places = ", ".join("?" * len(keys))
    query = f"SELECT key, value, checksum FROM responses WHERE key IN ({places})"  # noqa: S608
    return database.execute(query, keys).fetchall()


def _insert(database: sqlite3.Connection, *, rows: Sequence[tuple[str, str, int]]) -> None:
    database.execute("BEGIN IMMEDIATE")
    try:
        database.executemany("INSERT OR REPLACE INTO responses VALUES (?, ?, ?)", rows)
        _check_found(database, [key for key, _, _ in rows])
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _check_found(database: sqlite3.Connection, keys: Sequence[str]) -> None:
    for start in range(0, len(keys), _ROWS_AT_ONCE):
        chunk = keys[start : start + _ROWS_AT_ONCE]
        found = {row[0] for row in _select(database, keys=chunk) if _is_sound(*row)}
        if len(found) != len(chunk):
            raise _IndexDamagedError("a row just stored is not found")


class _IndexDamagedError(sqlite3.DatabaseError):
    """SQLite itself does not notice an index whose order is wrong."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _is_sound(key: object, value: object, checksum: object) -> bool:
    # A flipped bit may change a stored type as well.
    if not isinstance(key, bytes) or not isinstance(value, bytes):
        return False
    return checksum == _checksum(key, value)


def _checksum(key: bytes, value: bytes) -> int:
    return zlib.crc32(key + b"\0" + value)


def _primary_code(error: sqlite3.DatabaseError) -> int:
    # Extended codes carry the primary one in their lowest byte.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
