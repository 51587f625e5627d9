"""String ids as integer codes, so that filtering, sampling and counting run on NumPy arrays.

A code is the index of an id among the distinct ids in sorted order. Codes therefore do not
depend on the order of the rows or on how Polars numbers its categories. Functions of this package
convert ids to codes on entry (`encode_ids`) and convert them back when they return a table.

`UserSequences` holds all interactions in flat arrays, sorted by user and position, with the offset
at which each user's interactions start (the CSR layout of sparse matrices).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.tables import INTERACTIONS, conform

Codes = npt.NDArray[np.int64]


def encode_ids(ids: pl.Series) -> tuple[npt.NDArray[np.int32], pl.Series]:
    """Encode ids as integers.

    Args:
        ids: Strings or categories, no nulls.

    Returns:
        One code per row, and the distinct ids in sorted order. A code is an index into them.

    Examples:
        >>> codes, distinct = encode_ids(pl.Series(["b", "a", "b"]))
        >>> codes.tolist(), distinct.to_list()
        ([1, 0, 1], ['a', 'b'])
    """
    categories = ids.cast(pl.Categorical)
    physical = categories.to_physical().to_numpy()
    # Polars may share one numbering between columns, so not every number occurs here.
    row_of = np.full(int(physical.max(initial=0)) + 1, -1, dtype=np.int64)
    row_of[physical] = np.arange(len(physical))
    present = np.flatnonzero(row_of >= 0)
    distinct = categories.gather(row_of[present]).cast(pl.String)
    order = distinct.arg_sort().to_numpy()
    code_of = np.empty(len(row_of), dtype=np.int32)
    code_of[present[order]] = np.arange(len(present), dtype=np.int32)
    return code_of[physical], distinct.gather(order)


@dataclass(frozen=True, slots=True)
class UserSequences:
    """Interactions as arrays: the rows of a user are contiguous and ordered oldest first.

    Attributes:
        users: Distinct user ids, sorted. A user code is an index into this series.
        items: Distinct item ids, sorted. An item code is an index into this series.
        starts: Shape [n_users + 1]. The rows of user u are starts[u] to starts[u + 1].
        item_columns: Shape [n_rows]. Item code of each row (the column index in CSR).
        positions: Shape [n_rows]. Positions as given by the table.
    """

    users: pl.Series
    items: pl.Series
    starts: Codes
    item_columns: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]

    @property
    def user_codes(self) -> Codes:
        """Return the user code of each row, shape [n_rows]."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.starts))

    @property
    def last_rows(self) -> Codes:
        """Return the row of each user's last interaction, shape [n_users]."""
        return self.starts[1:] - 1


def sort_by_user(interactions: pl.DataFrame) -> tuple[pl.DataFrame, Codes]:
    """Sort interactions by user and position, and find where each user's rows start.

    Args:
        interactions: `tables.INTERACTIONS`, rows in any order.

    Returns:
        The sorted table, and starts of shape [n_users + 1] whose last value is the number of rows.

    Raises:
        DataError: A column is missing or has another type.
    """
    frame = conform(interactions, INTERACTIONS, name="interactions")
    user = frame["user_id"]
    is_first = (user != user.shift(1)).fill_null(value=True)
    is_later = (frame["position"] > frame["position"].shift(1)).fill_null(value=True)
    # Checking is much faster than sorting, and most tables are sorted already.
    if not (user.is_sorted() and bool((is_first | is_later).all())):
        frame = frame.sort("user_id", "position", maintain_order=True)
        is_first = (frame["user_id"] != frame["user_id"].shift(1)).fill_null(value=True)
    starts = np.append(is_first.arg_true().to_numpy().astype(np.int64), frame.height)
    return frame, starts


def encode_interactions(interactions: pl.DataFrame) -> UserSequences:
    """Convert a table of interactions to arrays.

    Args:
        interactions: `tables.INTERACTIONS`, rows in any order.

    Raises:
        DataError: A column is missing or has another type.
    """
    frame, starts = sort_by_user(interactions)
    item_columns, items = encode_ids(frame["item_id"])
    return UserSequences(
        users=frame["user_id"].gather(starts[:-1]),
        items=items,
        starts=starts,
        item_columns=item_columns,
        positions=frame["position"].to_numpy(),
    )
