"""State of the service: events, preferences, new items and deleted users.

All data that must survive a restart is in one transactional database (`database.py`): by default an
SQLite file in WAL mode, or PostgreSQL given its URL, with the same statements. An event is
acknowledged after its transaction is on disk, so that a process killed at any time loses no
acknowledged event. Events are ordered by arrival with numbers from the database, independently of
clocks.

An event is an interaction, which is part of the user's history, or a dislike, which only keeps the
item out of lists. Removing an event also removes the preferences that were inferred from it.

A removed event leaves a keyed hash of its id, so that it stays a duplicate if a client sends it
again. A deleted user leaves these hashes and one of their id, but no data: the run folder's data of
the user must stay unused.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import polars as pl
import sqlalchemy as sql

from mllm_msr.errors import RunFolderError
from mllm_msr.serving.database import Database, parse_url
from mllm_msr.serving.exposures import ExposureLog, delete_exposures
from mllm_msr.serving.state_tables import (
    DELETED,
    EVENTS,
    ITEMS,
    LAST_CHECK,
    MORE_IMAGES,
    STORED_PREFERENCES,
    create_tables,
)
from mllm_msr.tables import PREFERENCES

_CHECK_SECONDS: Final = 1.0  # for which the result of a check is valid

_ITEMS_PER_FETCH: Final = 100  # rows contain images

EventType = Literal["interaction", "dislike"]
Removal = Literal["removed", "already_removed", "unknown_event"]


class NewEvent(NamedTuple):
    """Event to store.

    Attributes:
        event_id: Id chosen by the client, unique over all users.
        user_id: The user.
        item_id: The item.
        timestamp: The client's time in milliseconds, if it sent one.
        type: What the user did.
    """

    event_id: str
    user_id: str
    item_id: str
    timestamp: int | None = None
    type: EventType = "interaction"


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """Event of a user in the database."""

    event_id: str
    item_id: str
    type: EventType


@dataclass(frozen=True, slots=True)
class UserState:
    """Data of a user in the database, in addition to the run folder.

    Attributes:
        events: The user's events, in the order of arrival.
        preference_history: `tables.PREFERENCES` inferred by the service, or an empty table.
        deleted: Whether the history and preferences in the run folder must be ignored.
    """

    events: tuple[StoredEvent, ...]
    preference_history: pl.DataFrame
    deleted: bool

    @property
    def history(self) -> tuple[str, ...]:
        """Return the items that the user has interacted with, in the order of arrival."""
        return tuple(event.item_id for event in self.events if event.type == "interaction")


class ServiceState:
    """State of one service; thread-safe.

    Args:
        url: Path of an SQLite file, or a URL, "sqlite:///PATH" or "postgresql+psycopg://...".

    Attributes:
        exposures: Log of the items that A/B tests have shown.

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
        self.exposures = ExposureLog(self._database)
        self._check_lock = threading.Lock()
        self._checked = -_CHECK_SECONDS
        self._problem: str | None = None
        try:
            self._hash_key = create_tables(self._database)
            self.check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database and release its lock. Calling it twice is harmless."""
        self._database.close()

    def add_events(self, events: Sequence[NewEvent]) -> list[bool]:
        """Store events; they are on disk when this method returns.

        Args:
            events: The events, in order.

        Returns:
            Whether each event is new; only the first of several events with the same id is stored,
            and none with the id of a removed event or of an event of a deleted user.

        Raises:
            RunFolderError: The disk is full or the database cannot be reached. The events must be
                sent again.
        """
        received = int(time.time() * 1000)
        digests = [self._digest("event", event.event_id) for event in events]
        with self._database.begin() as connection:
            deleted = self._deleted(connection, digests)
            return [
                digest not in deleted
                and connection.execute(
                    self._database.insert(EVENTS)
                    .values(event._asdict() | {"received": received})
                    .on_conflict_do_nothing(index_elements=["event_id"])
                    .returning(EVENTS.c.sequence)
                ).first()
                is not None
                for event, digest in zip(events, digests, strict=True)
            ]

    def user(self, user_id: str) -> UserState:
        """Return the stored data of a user.

        Raises:
            RunFolderError: The database cannot be read.
        """
        columns = (EVENTS.c.event_id, EVENTS.c.item_id, EVENTS.c.type)
        events = sql.select(*columns).where(EVENTS.c.user_id == user_id)
        preferences = sql.select(STORED_PREFERENCES).where(STORED_PREFERENCES.c.user_id == user_id)
        with self._database.connect() as connection:
            stored = connection.execute(events.order_by(EVENTS.c.sequence)).all()
            rows = connection.execute(preferences.order_by(STORED_PREFERENCES.c.block)).all()
            deleted = bool(self._deleted(connection, [self._digest("user", user_id)]))
        table = pl.DataFrame([tuple(row) for row in rows], schema=dict(PREFERENCES), orient="row")
        return UserState(tuple(StoredEvent(*row) for row in stored), table, deleted)

    def users_with_events(self) -> list[str]:
        """Return the ids of all users with events, sorted."""
        query = sql.select(EVENTS.c.user_id).distinct().order_by(EVENTS.c.user_id)
        with self._database.connect() as connection:
            return list(connection.execute(query).scalars())

    def deleted_users(self, user_ids: Iterable[str]) -> set[str]:
        """Return which of these users of the run folder have been deleted."""
        with self._database.connect() as connection:
            deleted = set(connection.execute(sql.select(DELETED.c.digest)).scalars())
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
            connection.execute(
                STORED_PREFERENCES.delete().where(STORED_PREFERENCES.c.user_id == user_id)
            )
            if preference_history.height:
                connection.execute(STORED_PREFERENCES.insert(), preference_history.to_dicts())

    def remove_event(
        self, user_id: str, event_id: str, *, n_run_items: int, n_run_read: int
    ) -> Removal:
        """Remove an event, and the preferences that were inferred from it, in one transaction.

        Args:
            user_id: The user of the event.
            event_id: The event.
            n_run_items: Length of the user's history in the run folder.
            n_run_read: Number of items that the latest preference in the run folder was inferred
                from. If the remaining preferences are older, they are removed as well, because the
                run's are used if there are none in the database.

        Returns:
            "unknown_event" if the user has no such event. It was "already_removed" if an event
            with this id has been removed before.

        Raises:
            RunFolderError: The database cannot be written; nothing was removed.
        """
        own = EVENTS.c.user_id == user_id
        digest = self._digest("event", event_id)
        with self._database.begin() as connection:
            query = sql.select(EVENTS.c.sequence, EVENTS.c.type)
            event = connection.execute(query.where(own, EVENTS.c.event_id == event_id)).first()
            if event is None:
                was_removed = self._deleted(connection, [digest])
                return "already_removed" if was_removed else "unknown_event"
            self._record_deleted(connection, [digest])
            connection.execute(EVENTS.delete().where(EVENTS.c.sequence == event.sequence))
            if event.type == "interaction":
                earlier = sql.and_(
                    own, EVENTS.c.type == "interaction", EVENTS.c.sequence < event.sequence
                )
                position = connection.execute(
                    sql.select(sql.func.count()).select_from(EVENTS).where(earlier)
                ).scalar_one()
                if self._deleted(connection, [self._digest("user", user_id)]):
                    n_run_items = n_run_read = 0
                self._remove_preferences(
                    connection, user_id, n_kept=n_run_items + position, n_run_read=n_run_read
                )
        return "removed"

    def _remove_preferences(
        self, connection: sql.Connection, user_id: str, *, n_kept: int, n_run_read: int
    ) -> None:
        """Remove the preferences that were inferred from more than `n_kept` items."""
        own, n_items = STORED_PREFERENCES.c.user_id == user_id, STORED_PREFERENCES.c.n_items
        if connection.execute(STORED_PREFERENCES.delete().where(own, n_items > n_kept)).rowcount:
            latest = connection.execute(sql.select(sql.func.max(n_items)).where(own)).scalar()
            if (latest or 0) < n_run_read:
                connection.execute(STORED_PREFERENCES.delete().where(own))

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
        own_events = EVENTS.c.user_id == user_id
        with self._database.begin() as connection:
            ids = connection.execute(sql.select(EVENTS.c.event_id).where(own_events)).scalars()
            digests = [self._digest("event", event_id) for event_id in ids]
            if in_run:
                digests.append(self._digest("user", user_id))
            self._record_deleted(connection, digests)
            events = connection.execute(EVENTS.delete().where(own_events))
            preferences = connection.execute(
                STORED_PREFERENCES.delete().where(STORED_PREFERENCES.c.user_id == user_id)
            )
            delete_exposures(connection, user_id)
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
        insert = self._database.insert(ITEMS).values(row)
        unless_stored = insert.on_conflict_do_nothing(index_elements=["item_id"])
        with self._database.begin() as connection:
            result = connection.execute(unless_stored.returning(ITEMS.c.item_id))
            is_new = result.first() is not None
            if is_new and more:
                connection.execute(MORE_IMAGES.insert(), more)
            return is_new

    def items(self) -> Iterator[Mapping[str, Any]]:
        """Yield all stored items, sorted by id."""
        with self._database.connect() as connection:
            several = set(connection.execute(sql.select(MORE_IMAGES.c.item_id)).scalars())
            streaming = connection.execution_options(yield_per=_ITEMS_PER_FETCH)
            rows = streaming.execute(sql.select(ITEMS).order_by(ITEMS.c.item_id))
            for row in rows.mappings():
                found = row["item_id"] in several
                yield {**row, "more_images": self._more_images(row["item_id"]) if found else []}

    def item(self, item_id: str) -> Mapping[str, Any] | None:
        """Return a stored item; `None` if it is not stored."""
        query = sql.select(ITEMS).where(ITEMS.c.item_id == item_id)
        with self._database.connect() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            return None
        return {**row, "more_images": self._more_images(item_id)}

    def _more_images(self, item_id: str) -> list[bytes]:
        query = sql.select(MORE_IMAGES.c.image).where(MORE_IMAGES.c.item_id == item_id)
        with self._database.connect() as connection:
            return list(connection.execute(query.order_by(MORE_IMAGES.c.position)).scalars())

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

    def _write_check(self) -> None:
        now = int(time.time() * 1000)
        row = self._database.insert(LAST_CHECK).values(id=1, time=now)
        event = {"event_id": secrets.token_hex(), "user_id": "", "item_id": "", "received": now}
        with self._database.begin() as connection:
            connection.execute(row.on_conflict_do_update(index_elements=["id"], set_={"time": now}))
            # The table of events may be damaged although others are not.
            with connection.begin_nested() as savepoint:
                connection.execute(self._database.insert(EVENTS).values(event))
                savepoint.rollback()

    def _digest(self, kind: Literal["user", "event"], text: str) -> bytes:
        content = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(content, key=self._hash_key, person=kind.encode()).digest()

    def _record_deleted(self, connection: sql.Connection, digests: Sequence[bytes]) -> None:
        """Record the hashes of deleted users or events."""
        if digests:
            insert = self._database.insert(DELETED)
            unless_recorded = insert.on_conflict_do_nothing(index_elements=["digest"])
            connection.execute(unless_recorded, [{"digest": digest} for digest in digests])

    def _deleted(self, connection: sql.Connection, digests: Sequence[bytes]) -> set[bytes]:
        """Return which of these hashes of users or events are those of deleted ones."""
        query = sql.select(DELETED.c.digest).where(DELETED.c.digest.in_(digests))
        return set(connection.execute(query).scalars())
