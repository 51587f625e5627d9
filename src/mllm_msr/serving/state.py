"""State of the service: events, preferences, new items and deleted users.

All data that must survive a restart is in one transactional database (`database.py`): by default an
SQLite file in WAL mode, or PostgreSQL given its URL, with the same statements. An event is
acknowledged after its transaction is on disk, so that a process killed at any time loses no
acknowledged event. Events are ordered by arrival with numbers from the database, independently of
clocks.

A deleted user leaves keyed hashes of their id and of the ids of their events, but no data: the run
folder's data of the user must stay unused, and an event that a client sends again must stay a
duplicate.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl
import sqlalchemy as sql

from mllm_msr.errors import RunFolderError
from mllm_msr.serving.database import Database, parse_url
from mllm_msr.tables import PREFERENCES

_CHECK_SECONDS: Final = 1.0  # for which the result of a check is valid

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
# Keyed hashes of deleted users of the run folder, and of the events of deleted users.
_DELETED: Final = sql.Table(
    "deleted", _METADATA, sql.Column("digest", sql.LargeBinary, primary_key=True)
)
# One row: the key of these hashes.
_HASH_KEY: Final = sql.Table(
    "hash_key",
    _METADATA,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("key", sql.LargeBinary, nullable=False),
)
# One row, which `check` writes.
_LAST_CHECK: Final = sql.Table(
    "last_check",
    _METADATA,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("time", sql.BigInteger, nullable=False),
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
# Second and further images of items, which few have.
_MORE_IMAGES: Final = sql.Table(
    "more_images",
    _METADATA,
    sql.Column("item_id", sql.Text, primary_key=True),
    sql.Column("position", sql.Integer, primary_key=True),
    sql.Column("image", sql.LargeBinary, nullable=False),
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
    """State of one service; thread-safe.

    Args:
        url: Path of an SQLite file, or a URL, "sqlite:///PATH" or "postgresql+psycopg://...".

    Raises:
        SettingsError: The URL is invalid or not supported.
        RunLockedError: Another service uses the database; the message names its process.
        RunFolderError: The database cannot be opened or written.
    """

    def __init__(self, url: str | Path) -> None:
        self._database = Database(
            parse_url(url)
            if isinstance(url, str)
            else sql.URL.create("sqlite", database=str(url))  # any character may be in a path
        )
        self._check_lock = threading.Lock()
        self._checked = -_CHECK_SECONDS
        self._problem: str | None = None
        try:
            self._hash_key = self._create_tables()
            self.check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database and release its lock. Calling it twice is harmless."""
        self._database.close()

    def add_events(self, events: Sequence[tuple[str, str, str, int | None]]) -> list[bool]:
        """Store events; they are on disk when this method returns.

        Args:
            events: Event id, user id, item id and the client's time (milliseconds or `None`) of
                each event, in order.

        Returns:
            Whether each event is new; only the first of several events with the same id is stored,
            and none with the id of an event of a deleted user.

        Raises:
            RunFolderError: The disk is full or the database cannot be reached. The events must be
                sent again.
        """
        received = int(time.time() * 1000)
        names = ("event_id", "user_id", "item_id", "timestamp")
        digests = [self._digest("event", event[0]) for event in events]
        with self._database.begin() as connection:
            deleted = self._deleted(connection, digests)
            return [
                digest not in deleted
                and connection.execute(
                    self._database.insert(_EVENTS)
                    .values(dict(zip(names, event, strict=True)) | {"received": received})
                    .on_conflict_do_nothing(index_elements=["event_id"])
                    .returning(_EVENTS.c.sequence)
                ).first()
                is not None
                for event, digest in zip(events, digests, strict=True)
            ]

    def user(self, user_id: str) -> UserState:
        """Return the stored data of a user.

        Raises:
            RunFolderError: The database cannot be read.
        """
        events = sql.select(_EVENTS.c.item_id).where(_EVENTS.c.user_id == user_id)
        preferences = sql.select(_PREFERENCES).where(_PREFERENCES.c.user_id == user_id)
        with self._database.connect() as connection:
            item_ids = connection.execute(events.order_by(_EVENTS.c.sequence)).scalars().all()
            rows = connection.execute(preferences.order_by(_PREFERENCES.c.block)).all()
            deleted = bool(self._deleted(connection, [self._digest("user", user_id)]))
        table = pl.DataFrame([tuple(row) for row in rows], schema=dict(PREFERENCES), orient="row")
        return UserState(tuple(item_ids), table, deleted)

    def users_with_events(self) -> list[str]:
        """Return the ids of all users with events, sorted."""
        query = sql.select(_EVENTS.c.user_id).distinct().order_by(_EVENTS.c.user_id)
        with self._database.connect() as connection:
            return list(connection.execute(query).scalars())

    def deleted_users(self, user_ids: Iterable[str]) -> set[str]:
        """Return which of these users of the run folder have been deleted."""
        with self._database.connect() as connection:
            deleted = set(connection.execute(sql.select(_DELETED.c.digest)).scalars())
        return {one for one in user_ids if deleted and self._digest("user", one) in deleted}

    def set_preference_history(self, user_id: str, preference_history: pl.DataFrame) -> None:
        """Replace a user's preference history.

        Args:
            user_id: The user.
            preference_history: All rows of the user's `tables.PREFERENCES`.

        Raises:
            RunFolderError: The disk is full or the database cannot be reached; the old history
                remains.
        """
        with self._database.begin() as connection:
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

        Raises:
            RunFolderError: The database cannot be written, or the deletion is not complete; it
                must be requested again.
        """
        own_events = _EVENTS.c.user_id == user_id
        with self._database.begin() as connection:
            ids = connection.execute(sql.select(_EVENTS.c.event_id).where(own_events)).scalars()
            digests = [self._digest("event", event_id) for event_id in ids]
            if in_run:
                digests.append(self._digest("user", user_id))
            if digests:
                record = self._database.insert(_DELETED).on_conflict_do_nothing(
                    index_elements=["digest"]
                )
                connection.execute(record, [{"digest": digest} for digest in digests])
            events = connection.execute(_EVENTS.delete().where(own_events))
            preferences = connection.execute(
                _PREFERENCES.delete().where(_PREFERENCES.c.user_id == user_id)
            )
            counts = events.rowcount, preferences.rowcount
        self._database.erase_deleted()
        return counts

    def add_item(self, item: Mapping[str, Any]) -> bool:
        """Store a new item; an item that is already stored does not change.

        Args:
            item: Columns of the items table; `image` is the content of a PNG file or `None`, and
                `more_images` a list of the contents of further files.

        Returns:
            Whether the item was new.
        """
        row = dict(item)
        more = [
            {"item_id": row["item_id"], "position": position, "image": image}
            for position, image in enumerate(row.pop("more_images"))
        ]
        insert = self._database.insert(_ITEMS).values(row)
        unless_stored = insert.on_conflict_do_nothing(index_elements=["item_id"])
        with self._database.begin() as connection:
            result = connection.execute(unless_stored.returning(_ITEMS.c.item_id))
            is_new = result.first() is not None
            if is_new and more:
                connection.execute(_MORE_IMAGES.insert(), more)
            return is_new

    def items(self) -> Iterator[Mapping[str, Any]]:
        """Yield all stored items, sorted by id."""
        with self._database.connect() as connection:
            several = set(connection.execute(sql.select(_MORE_IMAGES.c.item_id)).scalars())
            streaming = connection.execution_options(yield_per=_ITEMS_PER_FETCH)
            rows = streaming.execute(sql.select(_ITEMS).order_by(_ITEMS.c.item_id))
            for row in rows.mappings():
                found = row["item_id"] in several
                yield {**row, "more_images": self._more_images(row["item_id"]) if found else []}

    def item(self, item_id: str) -> Mapping[str, Any] | None:
        """Return a stored item; `None` if it is not stored."""
        query = sql.select(_ITEMS).where(_ITEMS.c.item_id == item_id)
        with self._database.connect() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            return None
        return {**row, "more_images": self._more_images(item_id)}

    def _more_images(self, item_id: str) -> list[bytes]:
        query = sql.select(_MORE_IMAGES.c.image).where(_MORE_IMAGES.c.item_id == item_id)
        with self._database.connect() as connection:
            return list(connection.execute(query.order_by(_MORE_IMAGES.c.position)).scalars())

    def check(self) -> None:
        """Check that events can be stored; the result is valid for a second.

        Raises:
            RunFolderError: The database cannot be written, or is not the one at the URL.
        """
        with self._check_lock:
            if time.monotonic() - self._checked >= _CHECK_SECONDS:
                try:
                    self._write_check()
                    self._problem = None
                except RunFolderError as error:
                    self._problem = str(error)
                self._checked = time.monotonic()
            if self._problem is not None:
                raise RunFolderError(self._problem)

    def _create_tables(self) -> bytes:
        """Create the missing tables, and return the key of the hashes."""
        with self._database.begin() as connection:
            tables = sql.inspect(connection).get_table_names()
            if _EVENTS.name in tables and _HASH_KEY.name not in tables:
                raise RunFolderError(
                    "An older version of mllm-msr wrote the service's database. Set serve.state "
                    "to another database."
                )
            _METADATA.create_all(connection)
            new = self._database.insert(_HASH_KEY).values(id=1, key=secrets.token_bytes(32))
            connection.execute(new.on_conflict_do_nothing(index_elements=["id"]))
            key: bytes = connection.execute(sql.select(_HASH_KEY.c.key)).scalar_one()
            return key

    def _write_check(self) -> None:
        now = int(time.time() * 1000)
        row = self._database.insert(_LAST_CHECK).values(id=1, time=now)
        event = {"event_id": secrets.token_hex(), "user_id": "", "item_id": "", "received": now}
        with self._database.begin() as connection:
            connection.execute(row.on_conflict_do_update(index_elements=["id"], set_={"time": now}))
            # The table of events may be damaged although others are not.
            with connection.begin_nested() as savepoint:
                connection.execute(self._database.insert(_EVENTS).values(event))
                savepoint.rollback()

    def _digest(self, kind: Literal["user", "event"], text: str) -> bytes:
        content = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(content, key=self._hash_key, person=kind.encode()).digest()

    def _deleted(self, connection: sql.Connection, digests: Sequence[bytes]) -> set[bytes]:
        """Return which of these hashes of users or events are those of deleted ones."""
        query = sql.select(_DELETED.c.digest).where(_DELETED.c.digest.in_(digests))
        return set(connection.execute(query).scalars())
