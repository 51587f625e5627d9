"""Which users got which items from which variant of an A/B test, in the service's database.

The outcomes are the interactions that the service stores anyway. An outcome is an interaction with
an item after the item was first shown to the user in the test.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final, final

import polars as pl
import sqlalchemy as sql

from mllm_msr.serving.database import Database
from mllm_msr.serving.state_tables import EVENTS, EXPOSURES

# One row per user: distinct items that were shown, and with how many of them they interacted.
OUTCOMES: Final = {
    "variant": pl.String(),
    "user_id": pl.String(),
    "shown": pl.Int64(),
    "interactions": pl.Int64(),
}


@final
class ExposureLog:
    """Log of the items that A/B tests have shown.

    Args:
        database: The service's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, experiment: str, variant: str, user_id: str, item_ids: Iterable[str]) -> None:
        """Record that a list was shown; of an item that was shown before, the first time counts.

        Raises:
            RunFolderError: The database cannot be written.
        """
        now = int(time.time() * 1000)
        rows = [
            {
                "experiment": experiment,
                "user_id": user_id,
                "item_id": item_id,
                "variant": variant,
                "shown": now,
            }
            for item_id in item_ids
        ]
        if rows:
            unless_shown = self._database.insert(EXPOSURES).on_conflict_do_nothing()
            with self._database.begin() as connection:
                connection.execute(unless_shown, rows)

    def variants_of(
        self, experiment: str, pairs: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], str]:
        """Return the variants that showed items to users, of the pairs that were shown.

        Args:
            experiment: Name of the test.
            pairs: Users and items.

        Raises:
            RunFolderError: The database cannot be read.
        """
        keys = sql.tuple_(EXPOSURES.c.user_id, EXPOSURES.c.item_id)
        query = sql.select(EXPOSURES.c.user_id, EXPOSURES.c.item_id, EXPOSURES.c.variant).where(
            EXPOSURES.c.experiment == experiment, keys.in_(pairs)
        )
        with self._database.connect() as connection:
            return {(user, item): variant for user, item, variant in connection.execute(query)}


def delete_exposures(connection: sql.Connection, user_id: str) -> None:
    """Delete what was shown to a user."""
    connection.execute(EXPOSURES.delete().where(EXPOSURES.c.user_id == user_id))


def read_experiments(connection: sql.Connection) -> list[str]:
    """Return the names of the tests that have shown anything, sorted."""
    names = sql.select(EXPOSURES.c.experiment).distinct().order_by(EXPOSURES.c.experiment)
    return list(connection.execute(names).scalars())


def read_outcomes(connection: sql.Connection, experiment: str) -> pl.DataFrame:
    """Return `OUTCOMES` of a test: one row per user and variant."""
    joined = EXPOSURES.outerjoin(
        EVENTS,
        sql.and_(
            EVENTS.c.user_id == EXPOSURES.c.user_id,
            EVENTS.c.item_id == EXPOSURES.c.item_id,
            EVENTS.c.type == "interaction",
            EVENTS.c.received >= EXPOSURES.c.shown,
        ),
    )
    query = (
        sql.select(
            EXPOSURES.c.variant,
            EXPOSURES.c.user_id,
            sql.func.count(sql.distinct(EXPOSURES.c.item_id)),
            sql.func.count(sql.distinct(EVENTS.c.item_id)),
        )
        .select_from(joined)
        .where(EXPOSURES.c.experiment == experiment)
        .group_by(EXPOSURES.c.variant, EXPOSURES.c.user_id)
        .order_by(EXPOSURES.c.variant, EXPOSURES.c.user_id)
    )
    rows = [tuple(row) for row in connection.execute(query)]
    return pl.DataFrame(rows, schema=OUTCOMES, orient="row")
