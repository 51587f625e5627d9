"""Tables of the service's database, and their creation.

`state.py` has the statements that use them.
"""

from __future__ import annotations

import secrets
from typing import Final

import sqlalchemy as sql

from mllm_msr.errors import RunFolderError
from mllm_msr.serving.database import Database

_METADATA: Final = sql.MetaData()

EVENTS: Final = sql.Table(
    "events",
    _METADATA,
    sql.Column("sequence", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True),
    sql.Column("event_id", sql.Text, nullable=False, unique=True),
    sql.Column("user_id", sql.Text, nullable=False, index=True),
    sql.Column("item_id", sql.Text, nullable=False),
    sql.Column("timestamp", sql.BigInteger),
    sql.Column("received", sql.BigInteger, nullable=False),
    sql.Column("type", sql.Text, nullable=False, server_default="interaction"),
    sqlite_autoincrement=True,  # numbers are never reused, even after deletions
)
STORED_PREFERENCES: Final = sql.Table(
    "preferences",
    _METADATA,
    sql.Column("user_id", sql.Text, primary_key=True),
    sql.Column("block", sql.Integer, primary_key=True),
    sql.Column("n_items", sql.Integer, nullable=False),
    sql.Column("preference", sql.Text, nullable=False),
    sql.Column("final", sql.Boolean, nullable=False),
    sql.Column("flags", sql.Text, nullable=False),
)
# Items that A/B tests have shown to users, with the first time in milliseconds.
EXPOSURES: Final = sql.Table(
    "exposures",
    _METADATA,
    sql.Column("experiment", sql.Text, primary_key=True),
    sql.Column("user_id", sql.Text, primary_key=True, index=True),
    sql.Column("item_id", sql.Text, primary_key=True),
    sql.Column("variant", sql.Text, nullable=False),
    sql.Column("shown", sql.BigInteger, nullable=False),
)
# Keyed hashes of deleted users of the run folder, of their events, and of removed events.
DELETED: Final = sql.Table(
    "deleted", _METADATA, sql.Column("digest", sql.LargeBinary, primary_key=True)
)
# One row: the key of these hashes.
HASH_KEY: Final = sql.Table(
    "hash_key",
    _METADATA,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("key", sql.LargeBinary, nullable=False),
)
# One row, which `check` writes.
LAST_CHECK: Final = sql.Table(
    "last_check",
    _METADATA,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("time", sql.BigInteger, nullable=False),
)
ITEMS: Final = sql.Table(
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
MORE_IMAGES: Final = sql.Table(
    "more_images",
    _METADATA,
    sql.Column("item_id", sql.Text, primary_key=True),
    sql.Column("position", sql.Integer, primary_key=True),
    sql.Column("image", sql.LargeBinary, nullable=False),
)


def create_tables(database: Database) -> bytes:
    """Create the missing tables and columns, and return the key of the hashes.

    Raises:
        RunFolderError: The tables are those of a version without hashes.
    """
    with database.begin() as connection:
        names = sql.inspect(connection).get_table_names()
        if EVENTS.name in names and HASH_KEY.name not in names:
            raise RunFolderError(
                "An older version of mllm-msr wrote the service's database. Set serve.state "
                "to another database."
            )
        _METADATA.create_all(connection)
        columns = {column["name"] for column in sql.inspect(connection).get_columns(EVENTS.name)}
        if EVENTS.c.type.name not in columns:  # written before there were dislikes
            added = "type TEXT NOT NULL DEFAULT 'interaction'"
            connection.exec_driver_sql(f"ALTER TABLE {EVENTS.name} ADD COLUMN {added}")
        new = database.insert(HASH_KEY).values(id=1, key=secrets.token_bytes(32))
        connection.execute(new.on_conflict_do_nothing(index_elements=["id"]))
        key: bytes = connection.execute(sql.select(HASH_KEY.c.key)).scalar_one()
        return key
