"""A user as the service knows him at one moment, and what can be wrong with an id."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from mllm_msr.errors import DataError
from mllm_msr.recommend.retrieval import Profile


class UnknownUserError(DataError):
    """Nobody knows this user, and the request wanted him known."""


class UnknownItemError(DataError):
    """Nobody knows this item, or it has no image and one was asked for."""


class ItemExistsError(DataError):
    """There is another item under this id."""


class ModelNotServedError(DataError):
    """The service has not loaded that model."""


@dataclass(frozen=True, slots=True)
class User:
    """A user at this moment.

    Attributes:
        profile: History and newest preference.
        preference_history: `tables.PREFERENCES`, all rows.
        known: Whether the run or the service has met him.
    """

    profile: Profile
    preference_history: pl.DataFrame
    known: bool

    @property
    def n_items(self) -> int:
        """Items that the newest preference has read."""
        newest = self.preference_history["n_items"].max()
        return int(newest) if newest is not None else 0  # type: ignore[arg-type]
