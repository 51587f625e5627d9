"""Database of the service: events, preferences, new items and deleted users.

All data that must survive a restart is in one transactional database: by default an SQLite file in
WAL mode, or PostgreSQL given its URL, with the same statements. An event is acknowledged after its
transaction is on disk, so that a process killed at any time loses no acknowledged event. Events are
ordered by arrival with numbers from the database, independently of clocks. Only one service uses a
database at a time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite

from mllm_msr.errors import RunFolderError, RunLockedError
from mllm_msr.storage.process_lock import ProcessLock
from mllm_msr.tables import PREFERENCES

_LOCKED_FIX: Final = "Stop that service, or set serve.state to another database."
_ADVISORY_LOCK: Final = 0x6D6C6C6D  # a number that other programs are unlikely to use

_ITEMS_PER_FETCH: Final = 100  # rows contain images

_METADATA: Final = sql.MetaData()

_EVENTS: Final = sql.Table(
    "events",
    _METADATA,
    sql.Column("sequence", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True),
    sql.Column("event_id", sql.Text, nullable=False, unique=True),
    sql.Column("user_id", sql.Text, nullable=False, index=True),
    sql.Column("item_id", sql.Text, nullable=False),
    sql.Column("timestamp", sql.BigInteger),
    sql.Column("received", sql.BigInteger, nullable=False),
    sqlite_autoincrement=True,  # numbers are never reused, even after deletions
)
_PREFERENCES: Final = sql.Table(
    "preferences",
    _METADATA,
    sql.Column("user_id", sql.Text, primary_key=True),
    sql.Column("block", sql.Integer, primary_key=True),
    sql.Column("n_items", sql.Integer, nullable=False),
    sql.Column("preference", sql.Text, nullable=False),
    sql.Column("final", sql.Boolean, nullable=False),
    sql.Column("flags", sql.Text, nullable=False),
)
# Deleted users of the run folder, whose history and preferences in the run folder are ignored.
_DELETED_USERS: Final = sql.Table(
    "deleted_users", _METADATA, sql.Column("user_id", sql.Text, primary_key=True)
)
_ITEMS: Final = sql.Table(
    "items",
    _METADATA,
    sql.Column("item_id", sql.Text, primary_key=True),
    sql.Column("title", sql.Text, nullable=False),
    sql.Column("text", sql.Text, nullable=False),
    sql.Column("image", sql.LargeBinary),
    sql.Column("digest", sql.Text, nullable=False),
    sql.Column("text_summary", sql.Text),
    sql.Column("image_summary", sql.Text),
    sql.Column("summary", sql.Text, nullable=False),
    sql.Column("image_status", sql.Text, nullable=False),
    sql.Column("flags", sql.Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class UserState:
    """Data of a user in the database, in addition to the run folder.

    Attributes:
        events: Ids of the items of the user's events, in the order of arrival.
        preference_history: `tables.PREFERENCES` inferred by the service, or an empty table.
        deleted: Whether the history and preferences in the run folder must be ignored.
    """

    events: tuple[str, ...]
    preference_history: pl.DataFrame
    deleted: bool


class ServiceState:
    """Database of one service; thread-safe.

    Args:
        url: SQLAlchemy URL, "sqlite:///PATH" or "postgresql+psycopg://...".

    Raises:
        RunLockedError: Another service uses the database; the message names its process.
        RunFolderError: The database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._name = sql.make_url(url).render_as_string(hide_password=True)
        self._lock = contextlib.ExitStack()
        is_sqlite = url.startswith("sqlite")
        options: dict[str, Any] = {
            "pool_pre_ping": True,
            "connect_args": {"application_name": f"mllm-msr {os.getpid()}"},
        }
        if is_sqlite:  # a transaction of another thread may lock the file briefly
            options = {"connect_args": {"timeout": 10}}
        with self._translate_errors():
            self._engine = sql.create_engine(url, **options)
        self._insert: Any = sqlite.insert if is_sqlite else postgresql.insert
        try:
            if is_sqlite:
                lock = _lock_file(Path(sql.make_url(url).database or ""))
                self._lock.callback(lock.release)
                sql.event.listen(self._engine, "connect", _prepare_sqlite)
            else:
                with self._translate_errors():
                    self._lock.enter_context(_server_lock(self._engine))
            with self._translate_errors():
                _METADATA.create_all(self._engine)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database and release its lock. Calling it twice is harmless."""
        self._lock.close()
        self._engine.dispose()

    def add_events(self, events: Sequence[tuple[str, str, str, int | None]]) -> list[bool]:
        """Store events; they are on disk when this method returns.

        Args:
            events: Event id, user id, item id and the client's time (milliseconds or `None`) of
                each event, in order.

        Returns:
            Whether each event is new; only the first of several events with the same id is stored.

        Raises:
            RunFolderError: The disk is full or the database cannot be reached; nothing is stored.
        """
        received = int(time.time() * 1000)
        names = ("event_id", "user_id", "item_id", "timestamp")
        with self._translate_errors(), self._engine.begin() as connection:
            return [
                connection.execute(
                    self._insert(_EVENTS)
                    .values(dict(zip(names, event, strict=True)) | {"received": received})
                    .on_conflict_do_nothing(index_elements=["event_id"])
                    .returning(_EVENTS.c.sequence)
                ).first()
                is not None
                for event in events
            ]

    def user(self, user_id: str) -> UserState:
        """Return the stored data of a user.

        Raises:
            RunFolderError: The database cannot be read.
        """
        events = sql.select(_EVENTS.c.item_id).where(_EVENTS.c.user_id == user_id)
        preferences = sql.select(_PREFERENCES).where(_PREFERENCES.c.user_id == user_id)
        deletion = sql.select(_DELETED_USERS).where(_DELETED_USERS.c.user_id == user_id)
        with self._translate_errors(), self._engine.connect() as connection:
            item_ids = connection.execute(events.order_by(_EVENTS.c.sequence)).scalars().all()
            rows = connection.execute(preferences.order_by(_PREFERENCES.c.block)).all()
            deleted = connection.execute(deletion).first() is not None
        table = pl.DataFrame([tuple(row) for row in rows], schema=dict(PREFERENCES), orient="row")
        return UserState(tuple(item_ids), table, deleted)

    def users_with_events(self) -> list[str]:
        """Return the ids of all users with events, sorted."""
        query = sql.select(_EVENTS.c.user_id).distinct().order_by(_EVENTS.c.user_id)
        with self._translate_errors(), self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def deleted_users(self) -> set[str]:
        """Return the ids of the deleted users of the run folder."""
        with self._translate_errors(), self._engine.connect() as connection:
            return set(connection.execute(sql.select(_DELETED_USERS.c.user_id)).scalars())

    def set_preference_history(self, user_id: str, preference_history: pl.DataFrame) -> None:
        """Replace a user's preference history.

        Args:
            user_id: The user.
            preference_history: All rows of the user's `tables.PREFERENCES`.

        Raises:
            RunFolderError: The disk is full or the database cannot be reached; the old history
                remains.
        """
        with self._translate_errors(), self._engine.begin() as connection:
            connection.execute(_PREFERENCES.delete().where(_PREFERENCES.c.user_id == user_id))
            if preference_history.height:
                connection.execute(_PREFERENCES.insert(), preference_history.to_dicts())

    def delete_user(self, user_id: str, *, in_run: bool) -> tuple[int, int]:
        """Delete a user.

        Args:
            user_id: The user.
            in_run: Whether the run folder contains the user, so that the deletion is recorded.

        Returns:
            The numbers of deleted events and preferences.
        """
        with self._translate_errors(), self._engine.begin() as connection:
            events = connection.execute(_EVENTS.delete().where(_EVENTS.c.user_id == user_id))
            preferences = connection.execute(
                _PREFERENCES.delete().where(_PREFERENCES.c.user_id == user_id)
            )
            if in_run:
                record = self._insert(_DELETED_USERS).values(user_id=user_id)
                connection.execute(record.on_conflict_do_nothing(index_elements=["user_id"]))
            return events.rowcount, preferences.rowcount

    def add_item(self, item: Mapping[str, Any]) -> bool:
        """Store a new item; an item that is already stored does not change.

        Args:
            item: Columns of the items table; `image` is the content of a PNG file or `None`.

        Returns:
            Whether the item was new.
        """
        insert = self._insert(_ITEMS).values(dict(item))
        unless_stored = insert.on_conflict_do_nothing(index_elements=["item_id"])
        with self._translate_errors(), self._engine.begin() as connection:
            result = connection.execute(unless_stored.returning(_ITEMS.c.item_id))
            return result.first() is not None

    def items(self) -> Iterator[Mapping[str, Any]]:
        """Yield all stored items, sorted by id."""
        with self._translate_errors(), self._engine.connect() as connection:
            streaming = connection.execution_options(yield_per=_ITEMS_PER_FETCH)
            rows = streaming.execute(sql.select(_ITEMS).order_by(_ITEMS.c.item_id))
            yield from (dict(row) for row in rows.mappings())

    def item(self, item_id: str) -> Mapping[str, Any] | None:
        """Return a stored item; `None` if it is not stored."""
        query = sql.select(_ITEMS).where(_ITEMS.c.item_id == item_id)
        with self._translate_errors(), self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
            return dict(row) if row is not None else None

    def check(self) -> None:
        """Check that the database answers.

        Raises:
            RunFolderError: The database does not answer.
        """
        with self._translate_errors(), self._engine.connect() as connection:
            connection.execute(sql.select(1))

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (sql.exc.SQLAlchemyError, OSError) as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise RunFolderError(
                f"The service's database {self._name} failed: {cause.rstrip('.')}. Free disk "
                "space or restore the connection; acknowledged data is not lost."
            ) from error


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


@contextlib.contextmanager
def _server_lock(engine: sql.Engine) -> Iterator[None]:
    """Hold a PostgreSQL advisory lock, which the server releases when the connection ends."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
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
            name = engine.url.render_as_string(hide_password=True)
            raise RunLockedError(
                f"The service's database {name} is in use by {process}. {_LOCKED_FIX}"
            )
        yield
