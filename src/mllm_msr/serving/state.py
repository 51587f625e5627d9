"""What the service must not lose: events, preferences, new items, deleted users.

One transactional database: an SQLite file in WAL mode by default, PostgreSQL by its URL, through
the same statements. An event is acknowledged after its transaction is on the disk, so that a
process killed at any moment loses none. Order is the order of arrival, counted by the database:
a clock that jumps changes nothing. One service owns a database at a time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import filelock
import polars as pl
import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite

from mllm_msr.errors import RunFolderError, RunLockedError
from mllm_msr.tables import PREFERENCES

_LOCK_NUMBER: Final = 0x6D6C6C6D  # any number that others are unlikely to lock

_ITEMS_AT_ONCE: Final = 100

_META: Final = sql.MetaData()

_EVENTS: Final = sql.Table(
    "events",
    _META,
    sql.Column("sequence", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True),
    sql.Column("event_id", sql.Text, nullable=False, unique=True),
    sql.Column("user_id", sql.Text, nullable=False, index=True),
    sql.Column("item_id", sql.Text, nullable=False),
    sql.Column("timestamp", sql.BigInteger),
    sql.Column("received", sql.BigInteger, nullable=False),
    sqlite_autoincrement=True,  # a number is never given twice, even after deletions
)
_PREFERENCES: Final = sql.Table(
    "preferences",
    _META,
    sql.Column("user_id", sql.Text, primary_key=True),
    sql.Column("block", sql.Integer, primary_key=True),
    sql.Column("n_items", sql.Integer, nullable=False),
    sql.Column("preference", sql.Text, nullable=False),
    sql.Column("final", sql.Boolean, nullable=False),
    sql.Column("flags", sql.Text, nullable=False),
)
# Users of the run folder who asked to be forgotten: what the folder knows of them is not used.
_FORGOTTEN: Final = sql.Table("forgotten", _META, sql.Column("user_id", sql.Text, primary_key=True))
_ITEMS: Final = sql.Table(
    "items",
    _META,
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
    """What the database adds to the run folder's knowledge of a user.

    Attributes:
        events: Ids of the items met since, in the order of arrival.
        preference_history: `tables.PREFERENCES`, empty where nothing was inferred since.
        forgotten: Whether the run folder's history and preferences are not to be used.
    """

    events: tuple[str, ...]
    preference_history: pl.DataFrame
    forgotten: bool


class ServiceState:
    """The database; threads may share it, services may not.

    Args:
        url: SQLAlchemy URL, "sqlite:///PATH" or "postgresql+psycopg://...".

    Raises:
        RunLockedError: Another service works on it; the message names its process.
        RunFolderError: It cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._name = sql.make_url(url).render_as_string(hide_password=True)
        self._held = contextlib.ExitStack()
        with self._explained():
            self._engine = sql.create_engine(url, **_options(url))
        self._insert: Any = sqlite.insert if url.startswith("sqlite") else postgresql.insert
        try:
            if url.startswith("sqlite"):
                self._held.enter_context(_file_lock(Path(sql.make_url(url).database or "")))
                sql.event.listen(self._engine, "connect", _prepare_sqlite)
            else:
                with self._explained():
                    self._held.enter_context(_server_lock(self._engine))
            with self._explained():
                _META.create_all(self._engine)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database and give it free. Calling it twice is harmless."""
        self._held.close()
        self._engine.dispose()

    def add_events(self, events: Sequence[tuple[str, str, str, int | None]]) -> list[bool]:
        """Keep events; when it returns they are on the disk.

        Args:
            events: Event, user and item ids and the client's time (milliseconds or `None`), in
                order.

        Returns:
            Whether each was new; the first one of an event id stays.

        Raises:
            RunFolderError: The disk is full or the database cannot be reached; none was kept.
        """
        received = int(time.time() * 1000)
        names = ("event_id", "user_id", "item_id", "timestamp")
        with self._explained(), self._engine.begin() as connection:
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
        """What is kept of a user.

        Raises:
            RunFolderError: The database cannot be read.
        """
        events = sql.select(_EVENTS.c.item_id).where(_EVENTS.c.user_id == user_id)
        preference_history = sql.select(_PREFERENCES).where(_PREFERENCES.c.user_id == user_id)
        gone = sql.select(_FORGOTTEN).where(_FORGOTTEN.c.user_id == user_id)
        with self._explained(), self._engine.connect() as connection:
            item_ids = connection.execute(events.order_by(_EVENTS.c.sequence)).scalars().all()
            rows = connection.execute(preference_history.order_by(_PREFERENCES.c.block)).all()
            forgotten = connection.execute(gone).first() is not None
        table = pl.DataFrame([tuple(row) for row in rows], schema=dict(PREFERENCES), orient="row")
        return UserState(tuple(item_ids), table, forgotten)

    def users_with_events(self) -> list[str]:
        """Ids of all users with events, sorted."""
        query = sql.select(_EVENTS.c.user_id).distinct().order_by(_EVENTS.c.user_id)
        with self._explained(), self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def forgotten_users(self) -> set[str]:
        """Ids of the run folder's users who asked to be forgotten."""
        with self._explained(), self._engine.connect() as connection:
            return set(connection.execute(sql.select(_FORGOTTEN.c.user_id)).scalars())

    def keep_preference_history(self, user_id: str, preference_history: pl.DataFrame) -> None:
        """Replace a user's preference_history.

        Args:
            user_id: The user.
            preference_history: `tables.PREFERENCES`, all of his rows.

        Raises:
            RunFolderError: The disk is full or the database cannot be reached; the old one stays.
        """
        with self._explained(), self._engine.begin() as connection:
            connection.execute(_PREFERENCES.delete().where(_PREFERENCES.c.user_id == user_id))
            if preference_history.height:
                connection.execute(_PREFERENCES.insert(), preference_history.to_dicts())

    def forget(self, user_id: str, *, in_run: bool) -> tuple[int, int]:
        """Delete a user.

        Args:
            user_id: The user.
            in_run: Whether the run folder knows him, so that it must be remembered that what it
                knows is not to be used.

        Returns:
            How many events and preferences were deleted.
        """
        with self._explained(), self._engine.begin() as connection:
            events = connection.execute(_EVENTS.delete().where(_EVENTS.c.user_id == user_id))
            rows = connection.execute(
                _PREFERENCES.delete().where(_PREFERENCES.c.user_id == user_id)
            )
            if in_run:
                note = self._insert(_FORGOTTEN).values(user_id=user_id)
                connection.execute(note.on_conflict_do_nothing(index_elements=["user_id"]))
            return events.rowcount, rows.rowcount

    def add_item(self, item: Mapping[str, Any]) -> bool:
        """Keep a new item.

        Args:
            item: The columns of the items' table; `image` holds a PNG's bytes or `None`.

        Returns:
            Whether it was new; an item that is there stays as it is.
        """
        insert = self._insert(_ITEMS).values(dict(item))
        unless_known = insert.on_conflict_do_nothing(index_elements=["item_id"])
        with self._explained(), self._engine.begin() as connection:
            done = connection.execute(unless_known.returning(_ITEMS.c.item_id))
            return done.first() is not None

    def items(self) -> Iterator[Mapping[str, Any]]:
        """All items that were added, by id."""
        with self._explained(), self._engine.connect() as connection:
            # A few at a time: they hold images.
            portions = connection.execution_options(yield_per=_ITEMS_AT_ONCE)
            rows = portions.execute(sql.select(_ITEMS).order_by(_ITEMS.c.item_id))
            yield from (dict(row) for row in rows.mappings())

    def item(self, item_id: str) -> Mapping[str, Any] | None:
        """An item that was added, `None` where it was not."""
        query = sql.select(_ITEMS).where(_ITEMS.c.item_id == item_id)
        with self._explained(), self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
            return dict(row) if row is not None else None

    def check(self) -> None:
        """Make sure that the database answers.

        Raises:
            RunFolderError: It does not.
        """
        with self._explained(), self._engine.connect() as connection:
            connection.execute(sql.select(1))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sql.exc.SQLAlchemyError, OSError) as error:
            cause = getattr(error, "orig", None) or error
            raise RunFolderError(
                needed=f"the service's database {self._name} to answer",
                received=str(cause).splitlines()[0],
                remedy="make room on its disk or mend the connection; "
                "what was acknowledged is kept",
            ) from error


def _options(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        # A transaction of another thread may hold the file for a moment.
        return {"connect_args": {"timeout": 10}}
    return {"pool_pre_ping": True, "connect_args": {"application_name": f"mllm-msr {os.getpid()}"}}


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    # With NORMAL a power cut may lose the newest transactions, and they were acknowledged.
    connection.execute("PRAGMA synchronous=FULL")
    # What a forgotten user's preferences said is overwritten, not only given free.
    connection.execute("PRAGMA secure_delete=ON")


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    lock = filelock.FileLock(f"{path}.lock", timeout=0, thread_local=False)
    holder = path.with_name(f"{path.name}.lock.pid")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        with contextlib.suppress(OSError):
            raise _locked(str(path), holder.read_text(encoding="ascii")) from error
        raise _locked(str(path), "of unknown id") from error
    except OSError as error:
        raise RunFolderError(
            needed="a folder for the service's state that can be written",
            received=f"{path.parent} ({error.strerror})",
            remedy="check its permissions, or name another place with serve.state",
        ) from error
    try:
        holder.write_text(str(os.getpid()), encoding="ascii")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def _server_lock(engine: sql.Engine) -> Iterator[None]:
    """PostgreSQL frees this lock by itself when the connection ends, however it ends."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # Out of the pool, so that the end of this block ends the connection, and the lock.
        connection.detach()
        if not connection.execute(sql.select(sql.func.pg_try_advisory_lock(_LOCK_NUMBER))).scalar():
            query = sql.text(
                "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) "
                "WHERE locktype = 'advisory' AND objid = :number AND granted"
            )
            holder = connection.execute(query, {"number": _LOCK_NUMBER}).scalar()
            process = str(holder or "").removeprefix("mllm-msr ") or "of unknown id"
            raise _locked(engine.url.render_as_string(hide_password=True), process)
        yield


def _locked(name: str, process: str) -> RunLockedError:
    return RunLockedError(
        needed=f"{name} for this service alone",
        received=f"a database on which the service of process {process} works",
        remedy="end that one, or name another database with serve.state",
    )
