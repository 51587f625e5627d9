"""Strings to integers and back, so that counting and sampling run on numpy arrays.

Codes follow the sorted order of the ids: they depend neither on the order of the rows nor on
how Polars numbers its categories. Strings appear again only where a table is handed over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.tables import INTERACTIONS, conform

Codes = npt.NDArray[np.int64]


def encode(ids: pl.Series) -> tuple[npt.NDArray[np.int32], pl.Series]:
    """Number the distinct values of a column.

    Args:
        ids: Strings or categories, no nulls.

    Returns:
        One code per row, and the distinct ids in sorted order: a code is a place among them.
    """
    categories = ids.cast(pl.Categorical)
    physical = categories.to_physical().to_numpy()
    # A numbering of categories may be shared with other columns and so have holes.
    row_of = np.full(int(physical.max(initial=0)) + 1, -1, dtype=np.int64)
    row_of[physical] = np.arange(len(physical))
    present = np.flatnonzero(row_of >= 0)
    distinct = categories.gather(row_of[present]).cast(pl.String)
    order = distinct.arg_sort().to_numpy()
    code_of = np.empty(len(row_of), dtype=np.int32)
    code_of[present[order]] = np.arange(len(present), dtype=np.int32)
    return code_of[physical], distinct.gather(order)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Interactions as arrays, one contiguous block of rows per user, oldest first.

    Attributes:
        users: Distinct user ids, sorted; a user's code is its place here.
        items: Distinct item ids, sorted.
        starts: Shape [n_users + 1]; the block of user u is rows starts[u] to starts[u + 1].
        item: Shape [n_rows]; item codes.
        position: Shape [n_rows]; positions as the table has them.
    """

    users: pl.Series
    items: pl.Series
    starts: Codes
    item: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]

    @property
    def user(self) -> Codes:
        """Shape [n_rows]; user codes."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.starts))

    @property
    def last(self) -> Codes:
        """Shape [n_users]; the row of each user's last interaction."""
        return self.starts[1:] - 1


def sorted_blocks(interactions: pl.DataFrame) -> tuple[pl.DataFrame, Codes]:
    """Interactions sorted by user and position, and where each user's rows begin.

    Returns:
        The frame, and starts of shape [n_users + 1], the last being the number of rows.

    Raises:
        DataError: A column is missing or of another type.
    """
    frame = conform(interactions, INTERACTIONS, name="interactions")
    user = frame["user_id"]
    changes = (user != user.shift(1)).fill_null(value=True)
    grows = (frame["position"] > frame["position"].shift(1)).fill_null(value=True)
    if not (user.is_sorted() and bool((changes | grows).all())):
        frame = frame.sort("user_id", "position", maintain_order=True)
        changes = (frame["user_id"] != frame["user_id"].shift(1)).fill_null(value=True)
    starts = np.append(changes.arg_true().to_numpy().astype(np.int64), frame.height)
    return frame, starts


def blocks(interactions: pl.DataFrame) -> Blocks:
    """Interactions as arrays.

    Args:
        interactions: `tables.INTERACTIONS`, rows in any order.

    Raises:
        DataError: A column is missing or of another type.
    """
    frame, starts = sorted_blocks(interactions)
    item, items = encode(frame["item_id"])
    return Blocks(
        users=frame["user_id"].gather(starts[:-1]),
        items=items,
        starts=starts,
        item=item,
        position=frame["position"].to_numpy(),
    )
